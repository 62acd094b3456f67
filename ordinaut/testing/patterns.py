"""Which steps of a workflow misbehave, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ordinaut.testing.simulator import StepErrorConfig
from ordinaut.testing.steps import Step

_PERMANENT = StepErrorConfig("ValidationError", permanently_fails=True)


class Pattern:
    """How the steps of one run fail."""

    def configs(self, steps: Sequence[Step]) -> Mapping[str, StepErrorConfig]:
        """Return what happens to which step, by name; the others succeed at once.

        Raises:
            ValueError: it names a step that the workflow has not.
        """
        found = self._configs(steps)
        names = [step.name for step in steps]
        for name in found:
            if name not in names:
                raise ValueError(f"{self}: there is no step {name}, only {', '.join(names)}")
        return found

    def _configs(self, steps: Sequence[Step]) -> Mapping[str, StepErrorConfig]:
        return {}

    @property
    def blocked(self) -> str | None:
        """The step that must not start because another one failed."""
        return None


@dataclass(frozen=True)
class AllSuccess(Pattern):
    """Nothing fails."""


@dataclass(frozen=True)
class FirstStepFails(Pattern):
    """The first step fails twice and then succeeds, or fails for good."""

    retryable: bool = True

    def _configs(self, steps: Sequence[Step]) -> Mapping[str, StepErrorConfig]:
        twice = StepErrorConfig(attempts_before_success=2)
        return {steps[0].name: twice if self.retryable else _PERMANENT}


@dataclass(frozen=True)
class LastStepFails(Pattern):
    """The last step fails once and then succeeds, or fails for good."""

    permanently: bool = False

    def _configs(self, steps: Sequence[Step]) -> Mapping[str, StepErrorConfig]:
        once = StepErrorConfig(attempts_before_success=1)
        return {steps[-1].name: _PERMANENT if self.permanently else once}


@dataclass(frozen=True)
class MiddleStepFails(Pattern):
    """A step fails so many times and then succeeds."""

    step_name: str
    attempts_before_success: int = 1

    def _configs(self, steps: Sequence[Step]) -> Mapping[str, StepErrorConfig]:
        return {
            self.step_name: StepErrorConfig(attempts_before_success=self.attempts_before_success)
        }


@dataclass(frozen=True)
class DependencyBlockage(Pattern):
    """One step fails for good, so another one never starts."""

    blocked_step: str
    blocking_step: str

    def _configs(self, steps: Sequence[Step]) -> Mapping[str, StepErrorConfig]:
        return {self.blocking_step: _PERMANENT}

    @property
    def blocked(self) -> str | None:
        return self.blocked_step


@dataclass(frozen=True)
class Custom(Pattern):
    """Each step as its configuration says."""

    step_configs: Mapping[str, StepErrorConfig]

    def _configs(self, steps: Sequence[Step]) -> Mapping[str, StepErrorConfig]:
        return self.step_configs


class ErrorPattern:
    """The patterns by name: ErrorPattern.FirstStepFails(retryable=True)."""

    AllSuccess = AllSuccess
    FirstStepFails = FirstStepFails
    LastStepFails = LastStepFails
    MiddleStepFails = MiddleStepFails
    DependencyBlockage = DependencyBlockage
    Custom = Custom

    @staticmethod
    def all_for(steps: Sequence[Step]) -> list[Pattern]:
        """Return every pattern that a workflow of these steps can show."""
        middle = steps[len(steps) // 2].name
        found: list[Pattern] = [
            AllSuccess(),
            FirstStepFails(retryable=True),
            FirstStepFails(retryable=False),
            LastStepFails(permanently=False),
            LastStepFails(permanently=True),
            MiddleStepFails(middle, attempts_before_success=2),
            Custom(
                {
                    steps[0].name: StepErrorConfig("ExternalServiceError", 1, 120),
                    middle: StepErrorConfig(attempts_before_success=1),
                }
            ),
        ]
        blocked = next((step for step in reversed(steps) if step.needs), None)
        if blocked is not None:
            found.append(DependencyBlockage(blocked.name, blocked.needs[0]))
        return found
