"""Random nets of grouped convolutions, shuffles, group norms, splits and sums: always equal to the masked model."""

from __future__ import annotations

import numpy as np
import pytest
from transforms.pruning import prune_and_check, random_keep, tiny

from graphopt import Model
from graphopt.analysis.labels import analyse
from graphopt.transforms.prune.selection import Policy
from graphopt.transforms.prune.selection_units import find_units
from graphopt.transforms.prune.shuffles import opened


class Net:
    """Text of a random net, block by block. All tensors have ``width`` channels of 4 x 4."""

    def __init__(self, random: np.random.Generator) -> None:
        self.width = int(random.choice([8, 12, 16, 24]))
        self.weights: list[str] = []
        self.constants: list[str] = []
        self.body: list[str] = []
        last = self.conv("x", 3, self.width)
        for _ in range(int(random.integers(2, 5))):
            groups = int(random.choice([g for g in (2, 3, 4) if self.width % g == 0]))
            kinds = [self.grouped, self.residual, self.shuffle, self.norm, self.halves, self.dense, self.multiplied]
            last = random.choice(kinds)(last, groups)
        weight = self.weight("w", 5, self.width, 1, 1)
        self.body.append(f"y = Conv({last}, {weight})")

    def weight(self, kind: str, *shape: int) -> str:
        name = f"{kind}{len(self.weights)}"
        self.weights.append(f"float[{','.join(map(str, shape))}] {name}")
        return name

    def add(self, text: str) -> str:
        name = f"t{len(self.body)}"
        self.body.append(f"{name} = {text}")
        return name

    def conv(self, x: str, inputs: int, outputs: int, groups: int = 1) -> str:
        return self.add(f"Conv<group={groups}>({x}, {self.weight('w', outputs, inputs // groups, 1, 1)})")

    def grouped(self, x: str, groups: int) -> str:
        return self.conv(x, self.width, self.width, groups)

    def residual(self, x: str, groups: int) -> str:
        return self.add(f"Add({x}, {self.grouped(x, groups)})")

    def dense(self, x: str, groups: int) -> str:
        return self.conv(self.add(f"Relu({x})"), self.width, self.width)

    def multiplied(self, x: str, groups: int) -> str:
        width = self.width
        wide = self.conv(self.conv(x, width, 2 * width, width), 2 * width, 6 * width, 2 * width)
        return self.conv(wide, 6 * width, width)

    def norm(self, x: str, groups: int) -> str:
        tables = [self.weight("b", self.width) for _ in range(2)]
        return self.add(f"GroupNormalization<num_groups={groups}>({x}, {', '.join(tables)})")

    def shuffle(self, x: str, groups: int) -> str:
        number = len(self.constants)
        self.constants.append(f"int64[5] s{number} = {{1,{groups},{self.width // groups},4,4}}")
        self.constants.append(f"int64[4] s{number + 1} = {{1,{self.width},4,4}}")
        cut = self.add(f"Reshape({x}, s{number})")
        turned = self.add(f"Transpose<perm=[0,2,1,3,4]>({cut})")
        return self.add(f"Reshape({turned}, s{number + 1})")

    def halves(self, x: str, groups: int) -> str:
        first, second = f"p{len(self.body)}", f"q{len(self.body)}"
        self.body.append(f"{first}, {second} = Split<axis=1, num_outputs=2>({x})")
        return self.add(f"Concat<axis=1>({first}, {self.conv(second, self.width // 2, self.width // 2)})")

    def model(self, seed: int) -> Model:
        constants = f"<{', '.join(self.constants)}> " if self.constants else ""
        body = "\n".join(self.body)
        head = f"(float[1,3,4,4] x, {', '.join(self.weights)}) => (float y)"
        return tiny(f"{head} {constants}{{ {body} }}", 21, seed=seed)


@pytest.mark.parametrize("seed", range(60))
def test_random_groups(seed: int) -> None:
    random = np.random.default_rng(seed)
    model = Net(random).model(seed)
    coupling, _ = opened(model.graph, analyse(model.graph), lambda: analyse(model.graph))
    units = find_units(coupling)
    policy = Policy(float(random.choice([0.3, 0.5, 0.7])), prefer=random.choice(["auto", "inner", "outer"]))
    keep = random_keep(units, seed=seed, policy=policy)
    if keep.empty():
        pytest.fail("nothing to remove")
    found = prune_and_check(model, keep, units, seed)
    assert found.passed, found
    assert not found.ill_conditioned
