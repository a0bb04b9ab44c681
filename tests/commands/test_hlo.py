"""What is read from the text of a program, against bytes counted by hand and against XLA's own analysis."""

import jax
import jax.numpy as jnp
import pytest

from mtan_jax.commands import hlo

PROGRAM = """
HloModule jit_f, is_scheduled=true

%body (p: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %p = (s32[], f32[8,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8,8]{1,0} get-tuple-element(%p), index=1
  %y = f32[8,8]{1,0} fusion(%x), kind=kLoop, calls=%inner, metadata={op_name="jit(f)/while/body/mul"}
  ROOT %t = (s32[], f32[8,8]{1,0}) tuple(%i, %y)
}

%inner (q: f32[8,8]) -> f32[8,8] {
  %q = f32[8,8]{1,0} parameter(0)
  ROOT %m = f32[8,8]{1,0} multiply(%q, %q)
}

ENTRY %main (a: bf16[2,4,6,64]) -> f32[8,8] {
  %a = bf16[2,4,6,64]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %start = (bf16[2,4,6,64]{3,0,2,1:T(8,128)(2,1)S(1)}, bf16[2,4,6,64]{3,0,2,1:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%a)
  %done = bf16[2,4,6,64]{3,0,2,1:T(8,128)(2,1)S(1)} copy-done(%start)
  %f = (f32[8,8]{1,0}, pred[3]{0}) fusion(%done), kind=kLoop, calls=%inner, backend_config={"estimated_cycles":"77"}
  %g = f32[8,8]{1,0} get-tuple-element(%f), index=0
  %r = f32[8,8]{1,0} all-reduce(%g), replica_groups={}, to_apply=%inner, metadata={op_name="jit(f)/psum"}
  %c = s32[] constant(0)
  %u = (s32[], f32[8,8]{1,0}) tuple(%c, %r)
  %w = (s32[], f32[8,8]{1,0}) while(%u), condition=%inner, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %out = f32[8,8]{1,0} get-tuple-element(%w), index=1
}
"""  # noqa: E501
SMALL = 8 * 8 * 4
TILED = 6 * 4 * 8 * 128 * 2  # h, w as they are; 2 examples fill a tile of 8, 64 channels one of 128


def test_bytes_of_each_instruction_by_hand():
    found = {instruction.name: instruction for instruction in hlo.executed(PROGRAM)}
    assert list(found) == ["start", "f", "r", "y"]
    start, fusion, reduce, in_loop = found.values()
    assert (start.bytes_accessed, start.main_memory_bytes) == (2 * TILED, TILED)  # into on-chip memory
    assert (fusion.bytes_accessed, fusion.main_memory_bytes) == (TILED + SMALL + 3, SMALL + 3)
    assert (fusion.cycles, fusion.op_name) == (77, "")
    assert (reduce.bytes_accessed, reduce.opcode, reduce.op_name) == (2 * SMALL, "all-reduce", "jit(f)/psum")
    assert (in_loop.times, in_loop.bytes_accessed) == (5, 5 * 2 * SMALL)
    assert hlo.count_instructions(PROGRAM) == 17


def test_bytes_are_those_of_xlas_analysis():
    def f(x, y):
        return jnp.sin(x @ y).T, (x * 2).sum()

    compiled = jax.jit(f).lower(jnp.ones((40, 50)), jnp.ones((50, 60))).compile()
    found = sum(instruction.bytes_accessed for instruction in hlo.executed(compiled.as_text()))
    assert found == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.01)


def test_loops_of_a_real_program_are_run_as_often_as_they_are():
    def f(x):
        return jax.lax.fori_loop(0, 7, lambda _, x: jnp.sin(x) @ x, x)

    found = hlo.executed(jax.jit(f).lower(jnp.ones((30, 30))).compile().as_text())
    assert {instruction.times for instruction in found if instruction.opcode in ("fusion", "dot")} == {7}


def test_arrays_of_a_type():
    assert hlo.buffers("(s8[3,5]{1,0}, token[], f32[]{:S(2)})") == (hlo.Buffer(15, False), hlo.Buffer(4, True))
