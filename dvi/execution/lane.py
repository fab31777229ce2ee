"""Plan, source and kernel together: evaluate a round for the rows of one lane. Identical everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from dvi.data.picks import Picks
from dvi.data.plan import Plan, default_block_rows, default_lanes, default_pool_chunks
from dvi.data.resident import CACHE_BYTES, Block, Budget
from dvi.data.source import Source
from dvi.data.stopwatch import Stopwatch
from dvi.data.stream import Stream
from dvi.errors import ModelError, NonFiniteError
from dvi.execution.crew import Crew
from dvi.execution.nonfinite import explanation, first_bad
from dvi.execution.tables import Table, Tables
from dvi.execution.tree import add_up
from dvi.model.compile import CompiledKernel, Piece, Program, compile_kernel
from dvi.model.graph import DataTerm
from dvi.model.layout import Layout
from dvi.model.scatter import scatter
from dvi.types import Evaluation, FloatArray, Round, Slab, Span


@dataclass(frozen=True, eq=False)
class LaneTerm:
    """One data term as a host needs it: what to read, in which order, and what to compile. Picklable without data."""

    names: tuple[str, ...]  # observed variables
    source: Source
    plan: Plan
    program: Program
    picks: Picks
    seed: int  # of the picks
    layout: Layout

    def taking(self, batch_size: int) -> LaneTerm:
        """The same term with other batches, in as many lanes as those have by default."""
        lanes, pool_chunks = _lanes_and_pools(self.source, batch_size, self.program)
        return replace(self, plan=replace(self.plan, batch_size=batch_size, lanes=lanes, pool_chunks=pool_chunks))

    def picked(self, block: Block, step: int) -> Block:
        """What a step takes of some rows, where it takes a part of other axes too."""
        return self.picks.apply(block, step, self.seed)

    @property
    def settings(self) -> dict[str, Any]:
        """What has to be the same for the same bits, beside seed and data."""
        return {**self.plan.settings, "picks": self.picks.settings}


PRIOR = -1  # the term of a leaf that evaluates the prior
CALL_BYTES = 16_000_000  # of rows, after which a kernel is called: pools that are not kept can go then


class Leaf(NamedTuple):
    """One lane of one term at one block of the draws: a leaf of the summation tree."""

    term: int
    lane: int
    block: int


class _Group(NamedTuple):
    """Leaves of one term and block of draws, among others."""

    term: int
    block: int
    lanes: tuple[int, ...]
    where: slice
    n_rows: list[int]  # of a step of each lane


@dataclass(frozen=True, eq=False)
class Problem:
    """All that is evaluated at the draws of a step.

    Parameters
    ----------
    terms : tuple of LaneTerm
    prior : Program, optional
        Evaluated beside the data terms where draws are many, so that hosts share it; else beside the optimizer.
    blocks : int
        Parts into which the draws of a round are cut; more than one for particles, which are many.
    lenient : bool
        Return what is not finite, for the training to skip, in place of an error that explains it.
    cache_bytes : int, optional
        Rows that a process keeps between epochs, where that is not left to where it runs.
    """

    terms: tuple[LaneTerm, ...]
    prior: Program | None = None
    blocks: int = 1
    lenient: bool = False
    cache_bytes: int | None = None

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """Leaves of the summation tree in their fixed order."""
        lanes = [(t, lane) for t, term in enumerate(self.terms) for lane in range(term.plan.lanes)]
        if self.prior is not None:
            lanes.append((PRIOR, 0))
        return tuple(Leaf(*lane, block) for lane in lanes for block in range(self.blocks))

    @cached_property
    def costs(self) -> list[float]:
        """What each leaf takes of a step, as bytes of its rows; the prior as much as the mean lane."""
        read = [term.source.row_nbytes * term.plan.lane_batch for term in self.terms]
        of_prior = float(np.mean(np.concatenate(read))) if read else 1.0
        return [of_prior if leaf.term == PRIOR else float(read[leaf.term][leaf.lane]) for leaf in self.leaves]

    def part(self, block: int, n_draws: int) -> slice:
        """The draws of a block."""
        return slice(n_draws * block // self.blocks, n_draws * (block + 1) // self.blocks)

    def chunks(self, leaves: range) -> list[tuple[int, int]]:
        """Term and chunk of everything that some leaves read."""
        owned = dict.fromkeys(self.leaves[i][:2] for i in leaves if self.leaves[i].term != PRIOR)
        return [(term, int(c)) for term, lane in owned for c in self.terms[term].plan.chunks(lane)]

    def pool_bytes(self, leaves: range) -> int:
        """Decoded bytes that some leaves hold at once at most, besides what is kept: two pools of each lane."""
        owned = {self.leaves[i][:2] for i in leaves if self.leaves[i].term != PRIOR}
        terms = ((self.terms[term].source, self.terms[term].plan, lane) for term, lane in owned)
        return sum(2 * plan.most_pool_rows(lane) * source.row_nbytes for source, plan, lane in terms)

    def empty(self, round: Round) -> Evaluation:
        """The evaluation of no rows."""
        return Evaluation(np.zeros(len(round.Z)), np.zeros(round.Z.shape), 0)


def plan_problem(
    terms: tuple[DataTerm, ...],
    lanes: int | Sequence[int] | None,
    seed: int,
    prior: Program | None = None,
    blocks: int = 1,
) -> Problem:
    """Data terms with the plan of a run: which rows each step reads, in how many lanes.

    Parameters
    ----------
    terms : tuple of DataTerm
    lanes : int, sequence of int or None
        Lanes of every term, or of each; chosen from data, batch size and model by default.
    seed : int
    prior, blocks
        As in :class:`Problem`.
    """
    planned = []
    asked = lanes if isinstance(lanes, Sequence) else [lanes] * len(terms)
    for term, given in zip(terms, asked, strict=True):
        batch = term.batch
        source, batch_size = batch.source, batch.batch_size
        n_lanes, pool_chunks = _lanes_and_pools(source, batch_size, term.program, given)
        block_rows = default_block_rows(source.row_nbytes)
        own = seed if batch.seed is None else batch.seed
        plan = Plan(source.starts, batch_size, n_lanes, pool_chunks, block_rows, own)
        planned.append(LaneTerm(term.names, source, plan, term.program, batch.picks, seed, term.layout))
    return Problem(tuple(planned), prior, blocks)


def _lanes_and_pools(source: Source, batch_size: int, program: Program, lanes: int | None = None) -> tuple[int, int]:
    """Lanes of batches of a size, unless they are given, and the chunks that each permutes together."""
    lanes = lanes or default_lanes(source.n_chunks, batch_size, source.row_nbytes, program.ndim)
    return lanes, default_pool_chunks(source.chunk_nbytes, lanes)


class LaneEvaluator:
    """Compiled kernels and open streams of a problem in one process. Owns nothing that cannot be made again.

    Parameters
    ----------
    problem : Problem
    threads : int
        Threads that read ahead.
    cache_bytes : int
        Rows that are kept between epochs, if the problem does not say.
    """

    def __init__(self, problem: Problem, threads: int = 1, cache_bytes: int = CACHE_BYTES) -> None:
        self.problem = problem
        self.leaves = problem.leaves
        self._background = ThreadPoolExecutor(threads, thread_name_prefix="dvi-read")
        self._budget = Budget(cache_bytes if problem.cache_bytes is None else problem.cache_bytes)
        self.waiting = Stopwatch()  # for rows
        self._streams = [self._stream(term.source, term.plan) for term in problem.terms]
        try:
            self._kernels = list(self._background.map(_compile, problem.terms))
        except BaseException:
            self.close()
            raise
        self._prior = None if problem.prior is None else compile_kernel(problem.prior)
        self._tables = [Tables(stream, kernel) for stream, kernel in zip(self._streams, self._kernels, strict=True)]
        weights = [1.0 if term == PRIOR else problem.terms[term].plan.weight(lane) for term, lane, _ in self.leaves]
        self._weights = np.array(weights)
        self._grouped = lru_cache(maxsize=64)(self._group)
        self._held: tuple[range, Table | None] = (range(0), None)  # the last table, and of which leaves

    def _stream(self, source: Source, plan: Plan) -> Stream:
        return Stream(source, plan, self._background, self._budget, self.waiting, scatter)

    def evaluate(self, leaf: int, round: Round) -> Evaluation:
        """Weighted sums of log likelihood and score over the rows of one leaf at one step; 0 at draws of others."""
        sums, leaves = self.zeros(1, round), range(leaf, leaf + 1)
        n_rows = self.add(leaves, round, sums)
        return self.total(leaves, round, sums, n_rows)

    @staticmethod
    def zeros(n: int, round: Round) -> FloatArray:
        """Sums ``(n, S, 1 + d)`` of log likelihoods and scores over nothing, for some leaves."""
        return np.zeros((n, len(round.Z), 1 + round.Z.shape[1]))

    def add(self, leaves: range, round: Round, sums: FloatArray) -> list[int]:
        """Put sums over the rows of ``n`` leaves into zeros ``(n, S, 1 + d)``; how many rows of each were read."""
        n_rows = [0] * len(leaves)
        for group in self._grouped(leaves):
            if self.problem.blocks == 1:
                n_rows[group.where] = self._sums(group, round, sums[group.where])
                continue
            part = self.problem.part(group.block, len(round.Z))
            own = Round(round.step, round.Z[part])
            found = self.zeros(len(group.lanes), own)
            read = self._sums(group, own, found)
            sums[group.where, part] = found
            n_rows[group.where] = read if group.block == 0 else [0] * len(read)
        return n_rows

    def total(self, leaves: range, round: Round, sums: FloatArray, n_rows: list[int]) -> Evaluation:
        """What :meth:`add` found of the leaves of a complete subtree, weighted and added up.

        Raises
        ------
        NonFiniteError
            If that is not finite, because some rows are not.
        """
        total, finite = add_up(sums, self._weights[leaves.start : leaves.stop])
        if not (finite or self.problem.lenient):
            for leaf, good in zip(leaves, np.isfinite(sums).all(axis=(1, 2)), strict=True):
                if not good and self.leaves[leaf].term != PRIOR:
                    raise NonFiniteError(self._explain(self.leaves[leaf].term, self.leaves[leaf].lane, round))
        return Evaluation.of(total, sum(n_rows))

    def at_hand(self, leaves: range, step: int) -> Table | None:
        """Where the rows are that leaves of one kernel need at a step, if they are in memory to stay."""
        held, table = self._held
        if table is None or step not in table.steps or held != leaves:
            (group,) = self._grouped(leaves)
            table = self._table(group, step)
            self._held = leaves, table
        return table

    def add_held(
        self, leaves: range, round: Round, sums: FloatArray, table: Table, crew: Crew | None = None
    ) -> list[int]:
        """As :meth:`add`, of leaves of one kernel whose rows are at hand.

        Parameters
        ----------
        table : Table
        crew : Crew, optional
            Shares the lanes.
        """
        (group,) = self._grouped(leaves)
        self._run(group, round, sums, table, crew)
        return group.n_rows

    def crew(self, n_helpers: int) -> Crew | None:
        """Threads that share the lanes of the only kernel; None where there are several, or nothing to share."""
        alone = len(self._kernels) == 1 and self._prior is None and self.problem.blocks == 1
        return Crew(self._kernels[0], n_helpers) if alone and n_helpers > 0 and len(self.leaves) > 1 else None

    def _group(self, leaves: range) -> list[_Group]:
        """Some leaves by term and block of draws."""
        found: dict[tuple[int, int], list[int]] = {}
        for position, i in enumerate(leaves):
            found.setdefault((self.leaves[i].term, self.leaves[i].block), []).append(position)
        groups = []
        for (term, block), at in found.items():
            lanes = tuple(self.leaves[leaves[i]].lane for i in at)
            plan = None if term == PRIOR else self.problem.terms[term].plan
            n_rows = [0 if plan is None else int(plan.lane_batch[lane]) for lane in lanes]
            where = slice(at[0], at[-1] + 1, self.problem.blocks)
            groups.append(_Group(term, block, lanes, where, n_rows))
        return groups

    def _sums(self, group: _Group, round: Round, sums: FloatArray) -> list[int]:
        """Put sums over the rows of each lane of a group into zeros, and return how many rows there were."""
        if group.term == PRIOR and self._prior is not None:
            sums[:, :, 0], sums[:, :, 1:] = self._prior(round.Z)
            return group.n_rows
        table = self._table(group, round.step)
        if table is None:
            self._add_rows(group, round, sums)
        else:
            self._run(group, round, sums, table)
        return group.n_rows

    def _table(self, group: _Group, step: int) -> Table | None:
        """Where the rows of a group are at a step; None where they have to be read first, or picked."""
        picked = self.problem.terms[group.term].picks.axes
        return None if picked else self._tables[group.term].of(group.lanes, step)

    def _run(self, group: _Group, round: Round, sums: FloatArray, table: Table, crew: Crew | None = None) -> None:
        """Add the sums over the rows of each lane of a group, which are in a table."""
        runner = self._kernels[group.term] if crew is None else crew
        runner.run(round.Z, sums, table.at(round.step), self.problem.terms[group.term].plan.block_rows)

    def _add_rows(self, group: _Group, round: Round, sums: FloatArray) -> None:
        """Add the sums over the rows of each lane of a group, which are read first."""
        term, kernel, size = self.problem.terms[group.term], self._kernels[group.term], 0
        row_nbytes = term.source.row_nbytes
        pieces: list[Piece] = []
        for i, lane in enumerate(group.lanes):
            if i + 1 < len(group.lanes):
                self._streams[group.term].ahead(group.lanes[i + 1])
            for span in self._spans(group.term, lane, round.step):
                pieces.append(Piece(i, span))
                size += (span.stop - span.start) * row_nbytes
                if size >= CALL_BYTES:
                    kernel.add(round.Z, sums, pieces, term.plan.block_rows)
                    pieces, size = [], 0
        kernel.add(round.Z, sums, pieces, term.plan.block_rows)

    def _spans(self, term: int, lane: int, step: int) -> Iterable[Span]:
        """The rows of a lane, in pieces that are large where nothing has to be picked of them."""
        if not self.problem.terms[term].picks.axes:
            return self._streams[term].spans(step, lane)
        return (Span(Slab.of(block), 0, len(block[0])) for block in self._blocks(term, lane, step))

    def _blocks(self, term: int, lane: int, step: int) -> Iterator[Block]:
        return (self.problem.terms[term].picked(block, step) for block in self._streams[term].blocks(step, lane))

    def check_rows_independent(self, leaf: int, Z: FloatArray) -> None:
        """Refuse a likelihood in which the value of a row depends on the other rows of its batch.

        Its sum over a block differs from the sum over the two halves of the block.
        """
        term, lane, _ = self.leaves[leaf]
        blocks = (block for block in self._blocks(term, lane, 0) if len(block[0]) > 1)
        block, kernel = tuple(array[:64] for array in next(blocks, ())), self._kernels[term]
        if not block:
            return
        n_rows = len(block[0])
        whole = kernel(Z, *block)[0]
        halves = [kernel(Z, *(a[part] for a in block))[0] for part in (slice(n_rows // 2), slice(n_rows // 2, None))]
        if not np.isfinite([whole, *halves]).all():
            return
        size = np.abs(whole) + np.abs(halves[0]) + np.abs(halves[1])
        single = any(array.dtype.kind == "f" and array.dtype.itemsize < 8 for array in block)
        if (np.abs(whole - halves[0] - halves[1]) > (1e-5 if single else 1e-9) * (size + 1.0)).any():
            names = ", ".join(self.problem.terms[term].names)
            raise ModelError(
                f"the likelihood of {names} is not a sum over rows: on {n_rows} rows it is {whole[0]:.10g}, on their "
                f"halves {halves[0][0] + halves[1][0]:.10g}; compute statistics of rows together (a mean, a cumulative "
                "sum, a difference of neighbours) on the full data first"
            )

    def use(self, term: int, source: Source) -> None:
        """Read a term from another view of the same source, for instance one with rows delivered to this process."""
        self._held = range(0), None
        stream = self._streams[term]
        stream.drop(set(range(stream.plan.lanes)))
        self._streams[term] = self._stream(source, stream.plan)
        self._tables[term] = Tables(self._streams[term], self._kernels[term])

    def drop(self, leaves: set[int]) -> None:
        """Forget the rows of leaves that are now read elsewhere."""
        self._held = range(0), None
        for t, stream in enumerate(self._streams):
            stream.drop({self.leaves[i].lane for i in leaves if self.leaves[i].term == t})
            self._tables[t] = Tables(stream, self._kernels[t])

    def _explain(self, term: int, lane: int, round: Round) -> str:
        planned, kernel = self.problem.terms[term], self._kernels[term]
        bad = first_bad(kernel, round.Z, self._blocks(term, lane, round.step))
        return explanation(planned.names, planned.source.names, planned.plan, planned.layout, lane, round, bad)

    def close(self) -> None:
        """Stop reading ahead."""
        self._background.shutdown(wait=False, cancel_futures=True)


def _compile(term: LaneTerm) -> CompiledKernel:
    """Compile the kernel of a term and try it on two rows of zeros, in the layout that the stream hands out."""
    shapes = ((2, *term.picks.shape(r.shape)[1:]) for r in term.source.readers)
    example = tuple(np.zeros(s, dtype=r.dtype) for s, r in zip(shapes, term.source.readers, strict=True))
    try:
        return compile_kernel(term.program, example)
    except (ValueError, IndexError, AssertionError) as error:
        raise ModelError(
            f"the likelihood of {', '.join(term.names)} cannot be evaluated on two rows ({error}); a batch may have "
            "any number of rows, so nothing but the Minibatch variables may have the length of a batch"
        ) from error
