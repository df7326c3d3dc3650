"""A summary of a run, made up."""

from solver.report.results import Summary


def summary(**changes: object) -> Summary:
    fields: dict[str, object] = {
        "exit_code": 0,
        "reason": "all tasks done",
        "tasks": 12,
        "queries": 13,
        "done": 11,
        "failed": 1,
        "waves": 2,
        "seconds": 281.3,
        "budget": 290.0,
        "trainer": "full",
        "engine": "hf",
        "dtype": "float32",
        "device": "cpu",
        "steps": 720,
        "trained_tokens": 1234567,
        "prompt_tokens": 5,
        "sampled_tokens": 98765,
        "trained_rate": 9000.0,
        "sampled_rate": 800.0,
        "peak_memory_worker": 900 * 2**20,
        "peak_memory_supervisor": 90 * 2**20,
        "phases": {"fit": {"planned": 200.0, "used": 190.4}},
        "agreement": 0.62,
        "events": {"oom": 2},
        "scores": {"per_prediction": {"solved": 3, "total": 13, "accuracy": 3 / 13}},
        "model": "embedded",
        "recipe": "default",
        "machine": "",
        "settings": {},
        "versions": {},
        "hardware": {},
        "commit": "",
    }
    return Summary(**{**fields, **changes})  # type: ignore[arg-type]
