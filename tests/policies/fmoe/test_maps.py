"""fMoE's store and its searches, worked by hand from the paper's formulas."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.fmoe.maps import ExpertMaps, Reals, Trajectory, best, direction, distribution


def store_of(maps: list[list[list[float]]], embeddings: list[list[float]] | None = None, d: int = 1) -> ExpertMaps:
    array = np.array(maps)
    store = ExpertMaps(array.shape[1], array.shape[2], len(array), d)
    store.add(array, None if embeddings is None else np.array(embeddings))
    return store


def drawn(seed: int, n: int, n_layers: int, n_experts: int) -> tuple[Reals, Reals]:
    """Maps and embeddings as the signals give them, some of them alike."""
    rng = np.random.default_rng(seed)
    maps = distribution(rng.random((n, n_layers, n_experts)) ** 4)
    embeddings = direction(rng.standard_normal((n, 5)))
    again = rng.integers(0, n, n)
    twice = rng.random(n) < 0.3
    maps[twice], embeddings[twice] = maps[again[twice]], embeddings[again[twice]]
    return maps, embeddings


def cosine(a: Reals, b: Reals) -> float:
    a, b = a.ravel(), b.ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_the_semantic_search_compares_embeddings() -> None:
    store = store_of([[[1, 0]]] * 3, [[0, 1], [0.6, 0.8], [0.6, 0.8]])
    cosines = store.semantic(direction(np.array([[6, 8], [0, 5]], np.float16)))
    assert cosines == pytest.approx(np.array([[0.8, 1, 1], [1, 0.8, 0.8]]), abs=1e-3)
    assert best(cosines)[0] == [1, 0]  # equals: the one in the first place


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 3))
@settings(max_examples=60)
def test_running_dot_products_are_the_full_cosines(seed: int, n_layers: int, n_experts: int, n: int) -> None:
    maps, _ = drawn(seed, 12, n_layers, n_experts)
    store = ExpertMaps(n_layers, n_experts, 8, 1)
    store.add(maps[:11], None)  # three of them replace others
    new = maps[12 - n :]
    t = Trajectory(store, n)
    for layer in range(n_layers):
        t.observe(layer, new[:, layer])
        full = [[cosine(x[: layer + 1], store.maps[: layer + 1, y]) for y in range(8)] for x in new]
        assert t.cosines(layer) == pytest.approx(np.array(full))
        places, scores = t.best(layer)
        assert scores == pytest.approx([max(row) for row in full])
        assert [full[i][y] for i, y in enumerate(places)] == pytest.approx(scores)
    np.testing.assert_array_equal(t.maps, new)


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_products_and_sums_are_exact(seed: int) -> None:
    """So neither threads nor vector units can change a score, whatever the order in which they add."""
    maps, embeddings = drawn(seed, 4, 3, 40)
    assert np.abs(maps).max() <= 1
    assert np.abs(embeddings).max() <= 1
    for vectors in (maps.reshape(4, -1), embeddings):
        exact = [[sum(Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)) for b in vectors] for a in vectors]
        assert [[Fraction(x) for x in row] for row in (vectors @ vectors.T).tolist()] == exact
    store = ExpertMaps(3, 40, 300, 1)
    store.add(np.repeat(maps[:1], 300, axis=0), np.repeat(embeddings[:1], 300, axis=0))
    t = Trajectory(store, 1)
    for layer in range(3):
        t.observe(layer, maps[1:2, layer])
    assert len(set(t.cosines(2)[0].tolist())) == len(set(store.semantic(embeddings[1:2])[0].tolist())) == 1


def test_signals_become_distributions_and_directions() -> None:
    sigmoid = np.array([[0.75, 0.5, 0.25], [0, 0, 0]], np.float16)
    assert distribution(sigmoid) == pytest.approx(np.array([[1 / 2, 1 / 3, 1 / 6], [0, 0, 0]]), abs=2e-4)
    assert direction(np.array([[3, 4], [0, 0]], np.float16)) == pytest.approx(np.array([[0.6, 0.8], [0, 0]]), abs=5e-4)
    for out in (distribution(sigmoid), direction(sigmoid)):
        np.testing.assert_array_equal(out, out.astype(np.float16))
    zero = store_of([[[0, 0]], [[1, 0]]], [[0, 0], [1, 0]])
    assert zero.semantic(np.array([[1.0, 0]])).tolist() == [[0, 1]]
    t = Trajectory(zero, 1)
    assert t.best(0) == ([0], [0.0])  # nothing shown is like nothing


def test_the_most_redundant_is_replaced() -> None:
    """RDY = (d/L) score_sem + ((L - d)/L) score_map; L = 4 layers of 2 experts."""
    a, b = [[1, 0]] * 4, [[0, 1]] * 4
    new = np.array([[[1.0, 0]] * 4])
    # Embeddings: the new one is that of b. d = 1: RDY(a) = 1/4 x 0 + 3/4 x 1, RDY(b) = 1/4 x 1 + 3/4 x 0.
    for d, rdy, replaced in ((1, [0.75, 0.25], 0), (3, [0.25, 0.75], 1), (2, [0.5, 0.5], 0)):
        store = store_of([a, b], [[1, 0], [0, 1]], d)
        assert store.redundancy(new, np.array([[0.0, 1]])).tolist() == [rdy]
        store.add(new, np.array([[0.0, 1]]))
        assert store.size == 2
        assert store.maps[:, replaced].tolist() == a
        assert store.embeddings[replaced].tolist() == [0, 1]
        assert store.maps[:, 1 - replaced].tolist() == [a, b][1 - replaced]
    store = store_of([a, b])  # no embeddings: the maps alone
    assert store.redundancy(new, None).tolist() == [[1, 0]]


def by_definition(store: ExpertMaps, one: Reals, embedding: Reals | None) -> list[float]:
    """RDY with all that is stored; d = 1 of 3 layers."""
    by_map = [cosine(one, store.maps[:, y]) for y in range(store.size)]
    if embedding is None:
        return by_map
    by_embedding = [cosine(embedding, other) for other in store.embeddings[: store.size]]
    return [1 / 3 * sem + 2 / 3 * traj for sem, traj in zip(by_embedding, by_map, strict=True)]


@given(st.integers(0, 10**6), st.integers(1, 7), st.booleans())
@settings(max_examples=60)
def test_contexts_together_are_stored_as_one_by_one(seed: int, capacity: int, embedded: bool) -> None:
    maps, embeddings = drawn(seed, 15, 3, 4)
    together, singly = ExpertMaps(3, 4, capacity, 1), ExpertMaps(3, 4, capacity, 1)
    for start in (0, 5, 10):
        part = slice(start, start + 5)
        together.add(maps[part], embeddings[part] if embedded else None)
    for i in range(15):
        one = slice(i, i + 1)
        given, known = embeddings[one] if embedded else None, None
        if singly.size == capacity:
            rdy = by_definition(singly, maps[i], embeddings[i] if embedded else None)
            found = singly.redundancy(maps[one], given)
            assert found[0] == pytest.approx(rdy)
            known = found if i % 2 else None
        before = singly.maps.copy()
        singly.add(maps[one], given, known)
        if known is not None:
            y = int(known[0].argmax())
            before[:, y] = maps[i]
            np.testing.assert_array_equal(singly.maps, before)
    assert together.size == singly.size == min(capacity, 15)
    for name in ("maps", "lengths", "embeddings", "embedding_lengths"):
        np.testing.assert_array_equal(getattr(together, name), getattr(singly, name))
