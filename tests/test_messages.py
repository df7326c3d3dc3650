"""What a worker says of itself."""

from solver.messages import Turns, WorkerFacts


def test_facts_as_json_keep_numbers_and_leave_out_what_was_not_said() -> None:
    assert WorkerFacts("full", "hf").to_json() == {"trainer": "full", "engine": "hf"}
    facts = WorkerFacts(
        "lora", "vllm", device="NVIDIA L4", threads=2, turns=Turns(1.23456, 64, 8, 1000, 10**9), memory="half each"
    )
    assert facts.to_json() == {
        "trainer": "lora",
        "engine": "vllm",
        "device": "NVIDIA L4",
        "threads": 2,
        "memory": "half each",
        "engine_sequences": 64,
        "fits_in_a_step": 8,
        "adapter_bytes": 1000,
        "adapter_room": 10**9,
        "handover_seconds": 1.23,
    }
