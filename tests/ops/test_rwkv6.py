"""RWKV-6's recurrence in its fast forms against the sequential oracle: outputs, final state, and every gradient."""

import pytest
import torch
from tests.helpers import assert_close
from tests.ops.vector_decay import TOLERANCE, VectorDecay, every_form, fla_module, make, need, run

from lengthwise.errors import InputError
from lengthwise.ops.rwkv6 import rwkv6, rwkv6_naive


class TestRWKV6(VectorDecay):
    op, naive = staticmethod(rwkv6), staticmethod(rwkv6_naive)
    bonus, name = True, "rwkv6"

    def test_the_decay_acts_after_the_read_out(self):
        # One token that forgets all: it still reads the state before it, and itself by the bonus.
        inputs = self.make(time=1)
        inputs["log_decay"] = torch.full_like(inputs["log_decay"], float("-inf"))
        o, final_state = rwkv6(*inputs.values())
        written = torch.einsum("bhk,bhv->bhkv", inputs["k"][:, 0], inputs["v"][:, 0])
        read = inputs["initial_state"] + inputs["u"][..., None] * written
        assert_close("final_state", final_state, written, 1e-15)
        assert_close("o", o[:, 0], torch.einsum("bhk,bhkv->bhv", inputs["q"][:, 0], read), 1e-15)

    def test_a_wrong_bonus_is_named(self, unchecked):
        inputs = {**self.make(), "u": torch.zeros(5, 3)}
        with pytest.raises(InputError) as caught:
            rwkv6(*inputs.values())
        assert str(caught.value) == (
            "expected u of shape (3, 5); got shape (5, 3); in rwkv6; match it to queries of shape (2, 11, 3, 5)"
        )

    @every_form
    def test_equals_the_recurrence_of_fla(self, backend, dtype):
        need(backend)
        published = fla_module("fla.ops.rwkv6.recurrent_naive").naive_recurrent_rwkv6

        def theirs(r, k, v, log_decay, u, initial_state):
            heads_first = (tensor.transpose(1, 2) for tensor in (r, k, v, log_decay))
            o, state = published(*heads_first, u, 1.0, initial_state, output_final_state=True)
            return o.transpose(1, 2), state

        inputs = make(time=37, keys=16, values=24, bonus=True, dtype=dtype)
        expected, expected_grads = run(theirs, inputs)
        actual, grads = run(rwkv6, inputs, backend=backend)
        for name, value in {**expected, **expected_grads}.items():
            # Theirs is in float32 whatever the inputs.
            assert_close(name, {**actual, **grads}[name], value, TOLERANCE[torch.float32])
