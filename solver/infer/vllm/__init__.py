"""The engine over vLLM. `engine` serves requests, `request_trackers` follows each of them, and only `shim` imports vllm."""
