"""GLA in its fast forms against the sequential oracle: outputs, final state, and every gradient."""

import pytest
import torch
from tests.helpers import assert_close
from tests.ops.vector_decay import TOLERANCE, VectorDecay, every_form, fla_module, make, need, run

from lengthwise.ops.gla import gla, gla_naive


class TestGLA(VectorDecay):
    op, naive = staticmethod(gla), staticmethod(gla_naive)
    bonus, name = False, "gla"

    @every_form
    @pytest.mark.parametrize("scale", [1.0, 0.3])
    def test_scale(self, scale, backend, dtype):
        self.compare(self.make(), backend, dtype, scale=scale)

    def test_the_default_scale_is_the_root_of_the_key_width(self):
        inputs = self.make(keys=16)
        for default, stated in zip(gla(*inputs.values()), gla(*inputs.values(), scale=0.25), strict=True):
            assert torch.equal(default, stated)

    def test_the_decay_acts_before_the_read_out(self):
        # One token that forgets all: what it reads is what it writes.
        inputs = self.make(time=1)
        inputs["log_decay"] = torch.full_like(inputs["log_decay"], float("-inf"))
        o, final_state = gla(*inputs.values(), scale=1.0)
        written = torch.einsum("bhk,bhv->bhkv", inputs["k"][:, 0], inputs["v"][:, 0])
        assert_close("final_state", final_state, written, 1e-15)
        assert_close("o", o[:, 0], torch.einsum("bhk,bhkv->bhv", inputs["q"][:, 0], written), 1e-15)

    @every_form
    def test_equals_the_recurrence_of_fla(self, backend, dtype):
        need(backend)
        published = fla_module("fla.ops.gla.naive").naive_recurrent_gla

        def theirs(q, k, v, log_decay, initial_state):
            return published(q, k, v, log_decay, initial_state, output_final_state=True)

        inputs = make(time=37, keys=16, values=24, bonus=False, dtype=dtype)
        expected, expected_grads = run(theirs, inputs)
        actual, grads = run(gla, inputs, backend=backend)
        for name, value in {**expected, **expected_grads}.items():
            # Theirs is in float32 whatever the inputs.
            assert_close(name, {**actual, **grads}[name], value, TOLERANCE[torch.float32])
