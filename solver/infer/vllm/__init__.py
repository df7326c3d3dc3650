"""The engine over vLLM, its CUDA and its CPU build: `engine` serves requests, `jobs` follows them, `shim` alone imports vllm."""
