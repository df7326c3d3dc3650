"""A check of requests that all engines share."""

from __future__ import annotations

from solver.types import Request, SampleRequest, ScoreRequest, SearchRequest


def refusal(request: Request, context: int) -> str:
    """Why a request cannot be served within `context` tokens; empty if it can."""
    if not len(request.prompt):
        return "the prompt is empty"
    need = 1
    if isinstance(request, ScoreRequest):
        need = max(map(len, request.completions), default=0)
    elif request.max_new_tokens < 1:
        return f"max_new_tokens is {request.max_new_tokens}, not positive"
    if len(request.prompt) + need > context:
        return f"{len(request.prompt)} prompt tokens and {need} more do not fit the context of {context}"
    if isinstance(request, SearchRequest) and not 0 < request.min_prob < 1:
        return f"min_prob is {request.min_prob}, not between 0 and 1"
    if isinstance(request, SampleRequest) and (
        request.n < 1 or request.temperature < 0 or (request.temperature == 0 and request.n > 1)
    ):
        return f"cannot draw {request.n} samples at temperature {request.temperature}"
    return ""
