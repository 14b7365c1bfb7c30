"""The tree of prompts holds every prompt, and shares what is worth sharing."""

import numpy as np
import pytest

from lengthwise.engines.prefixes import Node, prefix_tree


def spelled(roots: list[Node]) -> dict[int, list[int]]:
    """Every prompt as the path that leads to it."""
    found: dict[int, list[int]] = {}

    def walk(node: Node, before: list[int]) -> None:
        path = before + node.tokens.tolist()
        for index in node.ends:
            assert index not in found, "a prompt twice"
            found[index] = path
        for child in node.children:
            walk(child, path)

    for root in roots:
        walk(root, [])
    return found


def random_prompts(seed: int) -> list[np.ndarray]:
    """Prompts that branch from one another at random places; some equal, some the beginning of another."""
    random = np.random.default_rng(seed)
    prompts = [random.integers(0, 4, random.integers(1, 40))]
    for _ in range(30):
        base = prompts[random.integers(len(prompts))]
        cut = int(random.integers(0, len(base) + 1))
        grown = np.concatenate([base[:cut], random.integers(0, 4, random.integers(0, 30))])
        prompts.append(grown if len(grown) else base)
    return prompts


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("least", [1, 3, 64])
@pytest.mark.parametrize("enabled", [True, False])
def test_every_prompt_is_in_the_tree_once(seed: int, least: int, enabled: bool) -> None:
    prompts = random_prompts(seed)
    roots = prefix_tree(prompts, least=least, enabled=enabled)
    assert spelled(roots) == {index: prompt.tolist() for index, prompt in enumerate(prompts)}
    assert all(len(node.tokens) for node in roots)


@pytest.mark.parametrize("seed", range(4))
def test_with_least_one_nothing_is_read_twice(seed: int) -> None:
    prompts = random_prompts(seed)
    distinct = {tuple(prompt[:end].tolist()) for prompt in prompts for end in range(1, len(prompt) + 1)}
    assert sum(root.num_tokens() for root in prefix_tree(prompts, least=1)) == len(distinct)


def test_little_in_common_is_not_shared() -> None:
    prompts = [np.array([1, 2, 3, 4, 5]), np.array([1, 2, 9, 9, 9])]
    assert len(prefix_tree(prompts, least=3)) == 2
    assert len(prefix_tree(prompts, least=2)) == 1


def test_equal_prompts_are_one_whatever_the_setting() -> None:
    (node,) = prefix_tree([np.array([1, 2]), np.array([1, 2])], enabled=False)
    assert node.ends == [0, 1]


def test_a_depth_grid_shares_its_haystack() -> None:
    hay = np.arange(1000)
    prompts = [np.concatenate([hay[:at], [5000, 5001], hay[at:]]) for at in (0, 200, 400, 500, 600, 800, 1000)]
    tokens = sum(root.num_tokens() for root in prefix_tree(prompts))
    assert tokens < 0.65 * sum(map(len, prompts))
