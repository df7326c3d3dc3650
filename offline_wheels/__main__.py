"""`python -m offline_wheels lock | build | verify | install`: run from the root of a checkout."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from offline_wheels import install
from offline_wheels.build import build, summary
from offline_wheels.lock import make_lock
from offline_wheels.target import WheelError, load_target, target_names
from offline_wheels.verify import verify

BUNDLES = Path("dist/wheels")
TORCH_INDEX = "SOLVER_TORCH_INDEX"  # environment variable: the address of an index with torch for CUDA


def main(arguments: list[str] | None = None) -> int:
    """The command line: its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["install"]:
        return install.main(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        code = 0
        for name in options.targets or target_names():
            target = load_target(name)
            if options.verb == "lock":
                locked = make_lock(target, options.torch_index)
                print(f"{target.lock}: {len(locked)} packages")
            elif options.verb == "build":
                print("\n".join(summary(build(target, options.out, torch_index=options.torch_index, full=options.full))))
            else:
                code = max(code, verify(options.out / name, target, python=options.python, with_image=not options.without_image))
        return code
    except WheelError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m offline_wheels", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    lock = verbs.add_parser("lock", help="resolve targets against the package index and write their locks (needs uv)")
    make = verbs.add_parser(
        "build", help="download the wheels of a lock that the target's image lacks, and make a bundle of them"
    )
    check = verbs.add_parser("verify", help="install a bundle without network into a fresh environment and import what it brings")
    verbs.add_parser("install", help="what a notebook does: see python -m offline_wheels install --help")
    for verb in (lock, make, check):
        verb.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(target_names())} (default: all)")
    for verb in (lock, make):
        verb.add_argument(
            "--torch-index",
            default=os.environ.get(TORCH_INDEX, ""),
            metavar="URL",
            help=f"one more index, for torch; {{build}} in it stands for cpu, cu128, cu130 (default: ${TORCH_INDEX})",
        )
    for verb in (make, check):
        verb.add_argument("--out", type=Path, default=BUNDLES, metavar="FOLDER", help=f"where bundles lie (default {BUNDLES})")
    make.add_argument("--full", action="store_true", help="leave nothing out, whatever the image has")
    check.add_argument(
        "--python", default="", metavar="PATH", help="the interpreter to verify with (default: the target's version on PATH)"
    )
    check.add_argument("--without-image", action="store_true", help="do not install what the image has, which may be gigabytes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
