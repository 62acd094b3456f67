"""
What users test their own workflows with; the pytest fixtures are in plugin.py.

    databases, time    Database, Clock (database.py, clock.py; postgres.py finds the server)
    the engine         WorkRunner, SchedulerService (inline.py): the loops, without processes
    steps one by one   TestOrchestrator, StepErrorSimulator, StepErrorConfig
    assertions         StepAssertions, TaskAssertions, SqlLifecycleAssertion
    whole lifecycles   TemplateTestRunner, TestScenarioBuilder, ErrorPattern
    real processes     TestSuite, wait_for_completion
    races              Session (races.py)

Names are imported on first use: the plugin is loaded by every pytest run of the environment.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ordinaut.testing.assertions import (
        ExecutionStatus,
        ExpectedStepState,
        RecommendedAction,
        SqlLifecycleAssertion,
        StepAssertions,
        TaskAssertions,
        TaskStepDistribution,
    )
    from ordinaut.testing.clock import Clock
    from ordinaut.testing.database import Database, NoClock
    from ordinaut.testing.environment import BuildMode
    from ordinaut.testing.inline import SchedulerService, WorkRunner
    from ordinaut.testing.lifecycle import (
        TemplateTestRunner,
        TemplateTestSummary,
        TestScenarioBuilder,
    )
    from ordinaut.testing.orchestrator import (
        StepResult,
        TaskRequest,
        TemplateNotFound,
        TestOrchestrator,
        create_diamond_workflow_task,
        create_mathematical_test_context,
        create_test_task_request,
    )
    from ordinaut.testing.patterns import ErrorPattern
    from ordinaut.testing.races import Session
    from ordinaut.testing.simulator import StepErrorConfig, StepErrorSimulator
    from ordinaut.testing.steps import (
        Step,
        Task,
        execution_context,
        get_first_step,
        get_step,
        get_task_steps,
        readiness,
        state_sequence,
    )
    from ordinaut.testing.suite import SuiteClient, TaskStatus, TestSuite, wait_for_completion

__all__ = [
    "BuildMode",
    "Clock",
    "Database",
    "ErrorPattern",
    "ExecutionStatus",
    "ExpectedStepState",
    "NoClock",
    "RecommendedAction",
    "SchedulerService",
    "Session",
    "SqlLifecycleAssertion",
    "Step",
    "StepAssertions",
    "StepErrorConfig",
    "StepErrorSimulator",
    "StepResult",
    "SuiteClient",
    "Task",
    "TaskAssertions",
    "TaskRequest",
    "TaskStatus",
    "TaskStepDistribution",
    "TemplateNotFound",
    "TemplateTestRunner",
    "TemplateTestSummary",
    "TestOrchestrator",
    "TestScenarioBuilder",
    "TestSuite",
    "WorkRunner",
    "create_diamond_workflow_task",
    "create_mathematical_test_context",
    "create_test_task_request",
    "execution_context",
    "get_first_step",
    "get_step",
    "get_task_steps",
    "readiness",
    "state_sequence",
    "wait_for_completion",
]

_HOME = {
    "BuildMode": "environment",
    "Clock": "clock",
    "Database": "database",
    "ErrorPattern": "patterns",
    "ExecutionStatus": "assertions",
    "ExpectedStepState": "assertions",
    "NoClock": "database",
    "RecommendedAction": "assertions",
    "SchedulerService": "inline",
    "Session": "races",
    "SqlLifecycleAssertion": "assertions",
    "Step": "steps",
    "StepAssertions": "assertions",
    "StepErrorConfig": "simulator",
    "StepErrorSimulator": "simulator",
    "StepResult": "orchestrator",
    "SuiteClient": "suite",
    "Task": "steps",
    "TaskAssertions": "assertions",
    "TaskRequest": "orchestrator",
    "TaskStatus": "suite",
    "TaskStepDistribution": "assertions",
    "TemplateNotFound": "orchestrator",
    "TemplateTestRunner": "lifecycle",
    "TemplateTestSummary": "lifecycle",
    "TestOrchestrator": "orchestrator",
    "TestScenarioBuilder": "lifecycle",
    "TestSuite": "suite",
    "WorkRunner": "inline",
    "create_diamond_workflow_task": "orchestrator",
    "create_mathematical_test_context": "orchestrator",
    "create_test_task_request": "orchestrator",
    "execution_context": "steps",
    "get_first_step": "steps",
    "get_step": "steps",
    "get_task_steps": "steps",
    "readiness": "steps",
    "state_sequence": "steps",
    "wait_for_completion": "suite",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
