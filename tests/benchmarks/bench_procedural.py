"""Speed and variety of procedural families, and how many drafts are rejected for which reason.

python tests/benchmarks/bench_procedural.py [--families 1000]

Times are CPU seconds of this process, which has one thread.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np

from solver.pretrain.procedural.families import PROBE, Family, draft
from solver.pretrain.procedural.registry import PRIMITIVES
from solver.pretrain.procedural.scenes import SCENES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=1000)
    wanted = parser.parse_args().families
    families: list[Family] = []
    reasons: Counter[str] = Counter()
    began = time.process_time()
    for seed in range(wanted):
        for attempt in range(10**6):
            drafted = draft(seed, attempt)
            if isinstance(drafted, Family):
                families.append(drafted)
                break
            reasons[drafted] += 1
    drafting = time.process_time() - began
    began = time.process_time()
    rng = np.random.default_rng(0)
    fresh = sum(len(family.pairs(rng, 2 * PROBE)) - PROBE for family in families)
    drawing = time.process_time() - began

    drafts = wanted + sum(reasons.values())
    tokens = [sum(g.shape[0] * (g.shape[1] + 1) for g in (p.input, p.output)) for f in families for p in f.probe]
    used = {step.primitive.name for family in families for step in family.program}
    scenes = {family.scene.name.split()[0] for family in families}
    print(f"{len(PRIMITIVES)} primitives, {len(SCENES)} scenes; in {wanted} families {len(used)} and {len(scenes)} of them")
    print(f"{len({family.rule for family in families})} different rules")
    print(f"steps: {dict(sorted(Counter(len(family.program) for family in families).items()))}")
    print(f"{wanted / drafting:.0f} families/s with {PROBE} pairs each; {fresh / drawing:.0f} further pairs/s")
    print(f"{1 - wanted / drafts:.0%} of {drafts} drafts rejected: {dict(reasons.most_common())}")
    print("tokens a pair, 10/50/90 %: {:.0f} {:.0f} {:.0f}".format(*np.percentile(tokens, [10, 50, 90])))


if __name__ == "__main__":
    main()
