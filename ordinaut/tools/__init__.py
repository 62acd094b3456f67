"""The tools that work is done with, and the way to write one's own: ordinaut/tools/registry.py."""
