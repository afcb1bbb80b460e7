"""How a fit ended: one enumeration for every method, whose values are the messages."""

from __future__ import annotations

from enum import Enum


class Status(Enum):
    """How a fit ended. The value is the message shown to the user."""

    OK = "converged"
    UNCONVERGED = "stopped before its convergence criterion was met; the numbers are provisional"
    INTERRUPTED = "interrupted; the numbers come from the part that was done"
    DEGENERATE = "there is no optimum inside the support"
    SINGULAR = "the Hessian at the mode is singular or indefinite; no Gaussian fits there"
    COLLAPSED = "the mode has collapsed: members of a plate share one value"
    DIVERGED = "the objective, or an answer, became NaN or infinite"
    NOT_APPLICABLE = "the method does not apply to this model"
    FAILED = "it ended by an error"

    @property
    def ok(self) -> bool:
        """Whether the method met its own convergence criterion."""
        return self is Status.OK

    @property
    def has_result(self) -> bool:
        """Whether a fit with this status may show numbers."""
        return self in (Status.OK, Status.UNCONVERGED, Status.INTERRUPTED, Status.COLLAPSED)


class FitError(RuntimeError):
    """Raised when the numbers of a fit without any are asked for, or on ``throw=True``.

    Attributes
    ----------
    status
        How the fit ended.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class CheckpointError(ValueError):
    """A kept file, such as a checkpoint, that cannot be written, read, or is of something else."""


class MethodFailure(Exception):
    """What a method raises to end its fit with a status, a reason and a cure.

    Parameters
    ----------
    status
        Of the fit, which has no result.
    message
        Why, in words that may follow a colon.
    advice
        What to try instead; ``""`` for nothing.
    """

    def __init__(self, status: Status, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.advice = advice

    @property
    def reason(self) -> str:
        """Why, and what to try instead in a sentence of its own."""
        if not self.advice:
            return self.message
        return f"{self.message}. {self.advice[:1].upper()}{self.advice[1:]}"


class ModelError(ValueError):
    """A model that cannot be conditioned on the data as given."""
