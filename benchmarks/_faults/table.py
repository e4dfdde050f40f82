"""The faults of ``faults.py``: what each does to a healthy network, and what has to be said of it.

A fault is a function from a :class:`Subject`, which it spoils, to the names of what it spoilt:
parameters, modules, or ``inputs``, ``targets`` and ``loss_fn``; none where it does not apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from _faults import batch, byhand, init, structure, weights
from _faults.models import Names, Subject

__all__ = ["FAULTS", "Fault"]

Tool = Literal["check", "values", "audit"]


@dataclass(frozen=True)
class Fault:
    """One way to spoil a network.

    Attributes:
        name: in a few words.
        codes: findings of which one has to appear.
        inject: spoils a subject and names the places.
        tool: ``check`` measures it; ``values`` is a check, and an audit where that sees nothing;
            ``audit`` runs the subject's ``init``.
        prepare: a harmless change of structure that the fault needs, made to the healthy network
            too.
        advice: the finding's fix has to hold one of these words, where a person has to change code
            or data; empty: ``initium.repair`` has to mend the network.
        mend: makes that change by hand; a check then has to find nothing new.
        info: the finding is information by design.
    """

    name: str
    codes: tuple[str, ...]
    inject: Callable[[Subject], Names]
    tool: Tool = "check"
    prepare: Callable[[Subject], None] | None = None
    advice: tuple[str, ...] = ()
    mend: byhand.Mend | None = None
    info: bool = False


LOUD = ("IN202", "IN204", "IN206", "IN209", "IN401", "IN402", "IN404", "IN501")
QUIET = ("IN201", "IN203", "IN204", "IN208", "IN209", "IN301", "IN405")

FAULTS = (
    Fault("one matrix x 30", LOUD, weights.scaled(30.0)),
    Fault("one matrix divided by 30", QUIET, weights.scaled(1 / 30)),
    Fault("one matrix constant", ("IN403", "IN205"), weights.constant_matrix),
    Fault("one matrix zero, in a chain", ("IN203", "IN303", "IN731"), weights.zero_matrix),
    Fault("two zero matrices in a row", ("IN303", "IN203", "IN731"), weights.zero_pair),
    Fault(
        "zero weights before a ReLU",
        ("IN303", "IN731", "IN401", "IN203"),
        weights.zero_before_relu,
        "values",
    ),
    Fault("weights from 0 to a", ("IN205",), weights.shifted),
    Fault("NaN in one weight", ("IN101",), weights.poisoned(math.nan)),
    Fault("infinity in one weight", ("IN101",), weights.poisoned(math.inf)),
    Fault(
        "a bias of 100",
        ("IN203", "IN205", "IN401", "IN402", "IN501"),
        weights.constant_bias(100.0),
    ),
    Fault(
        "a bias of -30 before a ReLU",
        ("IN401", "IN205", "IN203"),
        weights.constant_bias(-30.0, "relu", "relu6"),
    ),
    Fault("biases drawn like weights", ("IN733", "IN205"), weights.drawn_biases, "values"),
    Fault("one norm's scale x 100", LOUD, weights.norm_scale(100.0)),
    Fault(
        "one norm's scale zero",
        ("IN203", "IN303", "IN201", "IN204", "IN208"),
        weights.norm_scale(0.0),
        info=True,
    ),
    Fault("all norms' scales 100", LOUD, weights.all_norm_scales),
    Fault("queries and keys x 30", ("IN404", "IN204"), weights.queries_and_keys(30.0)),
    Fault("queries and keys x 1e-5", ("IN405", "IN204", "IN208"), weights.queries_and_keys(1e-5)),
    Fault("embeddings x 1e-4", ("IN208", "IN201", "IN405"), weights.tiny_embedding),
    Fault("all tokens alike", ("IN203", "IN207", "IN403", "IN726", "IN734"), weights.equal_rows),
    Fault("tied table of std 1", ("IN501", "IN729"), weights.loud_table, "values"),
    Fault("head of std 1", ("IN501", "IN729"), weights.loud_head, "values"),
    Fault("N(0, 1) everywhere", (*LOUD, "IN729"), weights.everywhere(nn.init.normal_)),
    Fault(
        "std 1e-4 everywhere",
        (*QUIET, "IN303"),
        weights.everywhere(lambda weight: weight.normal_(0.0, 1e-4)),
    ),
    Fault(
        "0.01 everywhere",
        ("IN403", "IN205"),
        weights.everywhere(lambda weight: weight.fill_(0.01)),
    ),
    Fault("zero everywhere", ("IN303", "IN203"), weights.zero_everywhere),
    Fault(
        "weights from 0 to 1 everywhere",
        ("IN205", *LOUD),
        weights.everywhere(lambda weight: weight.uniform_()),
    ),
    Fault(
        "torch's default in a deep chain",
        ("IN201",),
        weights.plain_relu(lambda weight: nn.init.kaiming_uniform_(weight, a=5**0.5), 10),
    ),
    Fault(
        "xavier in a deep ReLU chain", ("IN201",), weights.plain_relu(nn.init.xavier_normal_, 20)
    ),
    Fault(
        "branches without residual scaling, no norms", ("IN206", "IN202"), weights.norm_free_writers
    ),
    Fault("branch writers x 1000", (*LOUD, "IN207"), weights.loud_writers),
    Fault("weights before norms x 1000", ("IN209", "IN204"), weights.before_norms),
    Fault("identical layers", ("IN726",), structure.twin_layers, "values"),
    Fault("one seed for every tensor", ("IN726", "IN704"), structure.one_seed, "values"),
    Fault("fans of fused q, k, v", ("IN721",), structure.fused_fans, "values", info=True),
    Fault("fan-out without groups", ("IN723",), structure.fan_out_of_groups, "values", info=True),
    Fault("fans of a transposed convolution", ("IN724",), structure.swapped_fans, "values"),
    Fault("experts read as a convolution", ("IN725",), structure.experts_as_taps, "values"),
    Fault("orthogonal over fused gates", ("IN722",), structure.fused_orthogonal, "values"),
    Fault("forget bias in both biases", ("IN732",), structure.doubled_forget, "values"),
    Fault(
        "padding row overwritten",
        ("IN728",),
        structure.padding_row,
        "values",
        structure.with_padding,
    ),
    Fault(
        "new rows all alike",
        ("IN734",),
        structure.grown_vocabulary,
        "values",
        advice=("noise", "randn_like"),
        mend=byhand.add_noise,
    ),
    Fault("one outlier of 30 sigmas", ("IN730",), structure.outliers, "values"),
    Fault(
        "adapter with both factors zero",
        ("IN727", "IN303"),
        structure.adapters(False, False),
        "values",
        structure.with_adapters,
    ),
    Fault(
        "adapter with both factors drawn",
        ("IN727",),
        structure.adapters(True, True),
        "values",
        structure.with_adapters,
    ),
    Fault("weights that are not the plan's", ("IN601",), structure.against_the_plan),
    Fault(
        "raw pixels",
        ("IN502",),
        batch.raw_pixels,
        advice=("/ std", "normalis"),
        mend=byhand.normalise,
    ),
    Fault(
        "labels of one class", ("IN503",), batch.one_class, advice=("huffle",), mend=byhand.shuffle
    ),
    Fault(
        "label among the features",
        ("IN504",),
        batch.leak,
        advice=("out of the inputs",),
        mend=byhand.hide_label,
    ),
    Fault(
        "softmax before cross-entropy",
        ("IN501",),
        batch.with_loss(lambda z, y: F.cross_entropy(z.softmax(-1), y)),
        advice=("softmax",),
        mend=byhand.plain_loss,
    ),
    Fault(
        "loss summed, not averaged",
        ("IN501",),
        batch.with_loss(lambda z, y: F.cross_entropy(z, y, reduction="sum")),
        advice=("mean",),
        mend=byhand.plain_loss,
    ),
    Fault(
        "everything frozen",
        ("IN305",),
        batch.frozen,
        advice=("requires_grad_",),
        mend=byhand.unfreeze,
    ),
    Fault(
        "a layer that is never called",
        ("IN304",),
        batch.spare_layer,
        advice=("remove",),
        mend=byhand.remove,
    ),
    Fault(
        "detached behind a block",
        ("IN304",),
        batch.hooked(torch.Tensor.detach),
        advice=("detach",),
        mend=byhand.clean,
    ),
    Fault(
        "a constant behind a block",
        ("IN203", "IN303"),
        batch.hooked(lambda x: torch.ones_like(x) + 0 * x),
        advice=("first", "constant"),
        mend=byhand.clean,
    ),
    Fault(
        "tokens averaged behind every block",
        ("IN207", "IN203"),
        batch.averaged,
        advice=("shortcut",),
        mend=byhand.clean_everywhere,
    ),
    Fault(
        "float16 without loss scaling",
        ("IN104",),
        batch.half_without_scaling,
        advice=("GradScaler", "bfloat16"),
        mend=byhand.scale_loss,
    ),
    Fault(
        "logarithm of negative numbers",
        ("IN102",),
        batch.hooked(batch.logarithm),
        advice=("clamp", "epsilon"),
        mend=byhand.guard(batch.guarded_logarithm),
    ),
    Fault(
        "root of zero",
        ("IN103",),
        batch.hooked(batch.root_of_zero),
        advice=("epsilon", "root or norm at zero"),
        mend=byhand.guard(batch.guarded_root),
    ),
    Fault(
        "gradient x 1e-3 per block",
        ("IN301",),
        batch.hooked(batch.backward(1e-3), every=True),
        advice=("backward", "autograd", "hook"),
        mend=byhand.clean_everywhere,
    ),
    Fault(
        "gradient x 1e3 per block",
        ("IN302", "IN103"),
        batch.hooked(batch.backward(1e3), every=True),
        advice=("backward", "autograd", "hook"),
        mend=byhand.clean_everywhere,
    ),
    Fault(
        "a parameter never written",
        ("IN701",),
        init.never_written,
        "audit",
        advice=("nn.init", "rule"),
    ),
    Fault(
        "buffers never written",
        ("IN701",),
        init.lost_buffers,
        "audit",
        advice=("compute",),
    ),
    Fault(
        "everything written twice",
        ("IN702",),
        init.written_twice,
        "audit",
        advice=("meta", "drop"),
        info=True,
    ),
    Fault("written after a load", ("IN703",), init.after_a_load, "audit", advice=("load",)),
    Fault(
        "seeded again for every tensor", ("IN704",), init.seeded_again, "audit", advice=("once",)
    ),
    Fault(
        "written through .data",
        ("IN705",),
        init.then(init.past_the_parameter),
        "audit",
        advice=("no_grad",),
        info=True,
    ),
    Fault(
        "numbers of NumPy's own generator",
        ("IN706",),
        init.then(init.from_the_clock),
        "audit",
        advice=("generator",),
    ),
    Fault("init code that seeds itself", ("IN707",), init.own_seed, "audit", advice=("seed",)),
    Fault(
        "parameter replaced", ("IN708",), init.then(init.replaced), "audit", advice=("in place",)
    ),
    Fault("tie broken", ("IN708",), init.torn_tie, "audit", advice=("in place", "tie")),
    Fault(
        "init of a parametrized weight",
        ("IN709",),
        init.without_effect,
        "audit",
        init.with_weight_norm,
        advice=("before", "assign"),
    ),
    Fault("init of an empty shard", ("IN710",), init.empty_shard, "audit", advice=("before",)),
    Fault("old contents scaled", ("IN711",), init.scaled_leftovers, "audit", advice=("first",)),
    Fault("an intended zero overwritten", ("IN712",), init.reopened, "audit", advice=("last",)),
    Fault(
        "two rules for a tied table", ("IN713",), init.tied_rules, "audit", advice=("leave", "one")
    ),
    Fault(
        "truncation at 100 sigmas",
        ("IN714",),
        init.then(init.far_bounds),
        "audit",
        advice=("bounds",),
        info=True,
    ),
)
"""Every fault, by the order in which a check looks for them."""
