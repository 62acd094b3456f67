"""What users test their own workflows with; fixtures are in plugin.py."""
