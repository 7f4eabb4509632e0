"""What is run: every arm, and which arms each figure of the paper compares on which recipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from advantageflow.config import ConfigError
from advantageflow.errors import shown
from advantageflow.paper.levers import CHOSEN, FINALISTS, LEVER_SEEDS, LEVERS, lever, settings_of, short_settings_of

AF, AF_A, NFT, GRPO = "AdvantageFlow(1.1)", "AdvantageFlow(1-A)", "DiffusionNFT", "Flow-GRPO"
METHODS: dict[str, tuple[str, ...]] = {
    AF_A: ("objective=advantageflow", "objective.gamma=1-A"),
    AF: ("objective=advantageflow", "objective.gamma=1.1"),
    # λ is .001 for both, as in the paper; the rollout policy moves alike
    NFT: ("objective=nft", "policy.rollout_decay=0.8", "objective.reference_weight=0.001"),
    GRPO: ("objective=flow-grpo", "learn.transitions=4"),
}
# The learning-rate search: four rates for every method, so placed that the best is not at an end, on a seed that is
# used for nothing else.
SEARCH_SEED = 1000
SEARCHED_RATES: dict[str, tuple[float, ...]] = {
    AF_A: (1e-3, 2e-3, 4e-3, 8e-3),
    AF: (1e-3, 2e-3, 4e-3, 8e-3),
    NFT: (5e-4, 1e-3, 2e-3, 4e-3),
    GRPO: (5e-4, 1e-3, 2e-3, 4e-3),
}
# What it chose: the highest last held-out score. A test holds this against the stored results.
LEARNING_RATES = {AF_A: 4e-3, AF: 4e-3, NFT: 2e-3, GRPO: 1e-3}
GAMMAS = (0, 0.2, 0.5, 2, 5)


def gamma_arm(gamma: float) -> str:
    return f"AdvantageFlow(γ={gamma:g})"


# What lies between DiffusionNFT and AdvantageFlow(1-A): its code's curvature is 5β, it divides by errors, and it
# normalizes by the spread of raw rewards. With all three changed, only the space of the reference term differs.
STEPS: dict[str, tuple[str, ...]] = {
    "DiffusionNFT, curvature 1": (*METHODS[NFT], "objective.beta=0.2"),
    "DiffusionNFT, plain squares": (*METHODS[NFT], "objective.adaptive_scale=false"),
    "DiffusionNFT, eq. 6": (*METHODS[NFT], "advantage.normalize=centered_rms", "advantage.clip=1"),
    "DiffusionNFT, curvature 1, plain squares": (
        *METHODS[NFT],
        "objective.beta=0.2",
        "objective.adaptive_scale=false",
    ),
    "AdvantageFlow(1-A), divided by errors": (*METHODS[AF_A], "objective.adaptive_scale=true"),
}
# The two losses at the curvature that does best, each with a learning rate of its own.
NFT_1 = "DiffusionNFT, curvature 1"
CURVED: dict[str, tuple[str, ...]] = {
    gamma_arm(0.5): ("objective=advantageflow", "objective.gamma=0.5"),
    NFT_1: STEPS[NFT_1],
}
# Other methods in the world of the recipe scenes, each as its own recipe has it.
_SLOWER, _FASTER = (5e-4, 1e-3, 2e-3), (1e-3, 2e-3, 4e-3)
_TREES = ("rollout.images_per_prompt=16", "rollout.prompts_per_iteration=12", "objective.splits=[0,1,2,3]")
_NOISY, _SMALL = "learn.transitions=4", "learn.batch_size=64"
OTHERS: dict[str, tuple[str, ...]] = {
    "FlowAWR": ("objective=flow-awr", "policy.rollout_decay=0.8"),
    "AWM": ("objective=awm", "policy.rollout_decay=0"),
    "DGPO": ("objective=dgpo", "policy.rollout_decay=0"),
    "EPG": ("objective=epg", "policy.rollout_decay=0"),
    "V-GRPO": ("objective=v-grpo", "policy.rollout_decay=0"),
    "Flow-DPO": ("objective=flow-dpo", "policy.rollout_decay=0", _SMALL),
    "AC-Flow": ("objective=ac-flow", "policy.rollout_decay=0.8"),
    "Best of group": ("objective=rwr", "advantage.normalize=group_best"),
    "GRPO-Guard": ("objective=grpo-guard", _NOISY),
    "Flow-DPPO": ("objective=flow-dppo", "objective.noisy_steps=3", "learn.t_draws=3"),
    "TempFlow-GRPO": ("objective=temp-flow-grpo", "objective.branches=4", "learn.t_draws=1", _NOISY),
    "DiffusionART": ("objective=diffusion-art", "learn.optimizer_steps=2"),
    "RVM": ("objective=awm", "objective.weighting=uniform", "policy.rollout_decay=0", "learn.t_distribution=uniform"),
    "Stepwise-Flow-GRPO": ("objective=stepwise-flow-grpo", "rollout.solver=ddim", _NOISY),
    "G2RPO": ("objective=g2rpo", "objective.branches=12", "learn.t_draws=1", _NOISY),
    "Flash-GRPO": ("objective=flash-grpo", "learn.t_draws=1", _NOISY),
    "RAM": ("objective=ram",),
    "ADRPO": ("objective=adrpo",),
    "Reward-weighted regression": ("objective=rwr",),
    "ORW-CFM-W2": ("objective=orw-cfm-w2", "policy.rollout_every=5"),
    "CRD": ("objective=crd", "objective.reference_guidance=2"),
    "MixGRPO": ("objective=mix-grpo", "objective.iterations=3"),
    "BranchGRPO": ("objective=branch-grpo", *_TREES, "learn.transitions=4", "learn.t_draws=4"),
}
GRADIENTS: dict[str, tuple[str, ...]] = {
    "AlignProp": ("objective=align-prop", "objective.weight=1", _SMALL),
    "DRTune": ("objective=drtune", "objective.active_steps=3", _SMALL),
    "FlowBP-Sparse": ("objective=flow-bp", _SMALL),
    "FlowBP-Lagrange": ("objective=flow-bp-lagrange", _SMALL),
    "Adjoint Matching": (
        "objective=adjoint-matching",
        "objective.reward_scale=300",
        "objective.active_steps=4",
        "rollout.noise_level=1.0",
        _SMALL,
    ),
    "DRaFT-K": ("objective=draft", "objective.last_steps=3", _SMALL),
    "DRaFT-LV": ("objective=draft-lv", "objective.sigma=0.3", _SMALL),
    "ReFL": ("objective=refl", "objective.last_steps=6", _SMALL),
}
# Models that draw in four steps, by average velocities.
FEW_STEPS: dict[str, tuple[str, ...]] = {
    "MeanFlowAdvantage": ("objective=mean-flow-advantage",),
    "MeanFlowNFT": ("objective=mean-flow-nft", "policy.rollout_decay=0.8"),
}
FIELD = CURVED | OTHERS | GRADIENTS | FEW_STEPS
# Their search: three rates for each, and further ones where the best is at an end.
FIELD_RATES: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("DiffusionART", "TempFlow-GRPO", "MixGRPO"), _SLOWER),
    **dict.fromkeys(("FlowBP-Sparse", "Adjoint Matching", "DRaFT-K", "DRaFT-LV", "ReFL"), (*_SLOWER, 4e-3)),
    **dict.fromkeys(("AlignProp", "DRTune", "FlowBP-Lagrange"), (*_SLOWER, 4e-3, 8e-3)),
    **dict.fromkeys(("AWM", "Flow-DPO", "RAM", "ADRPO", "Reward-weighted regression", "ORW-CFM-W2"), _FASTER),
    **dict.fromkeys((*CURVED, *FEW_STEPS, "FlowAWR", "AC-Flow", "DGPO", "Best of group", "CRD"), (*_FASTER, 8e-3)),
    **dict.fromkeys(("V-GRPO", "RVM"), (5e-4, *_FASTER)),
    "EPG": (1.25e-4, 2.5e-4, 5e-4, *_FASTER),
    **dict.fromkeys(("Flow-DPPO", "Stepwise-Flow-GRPO", "G2RPO", "Flash-GRPO", "BranchGRPO"), (*_SLOWER, 4e-3)),
    "GRPO-Guard": (*_SLOWER, 4e-3, 8e-3),
}
# What it chose. A test holds it against the stored results. The score of a learned reward grows with the rate until the
# pictures show nothing: for methods that see its gradient it chooses none.
FIELD_CHOSEN: dict[str, float] = {
    **dict.fromkeys((*CURVED, *FEW_STEPS, "FlowAWR", "AC-Flow", "DGPO", "Best of group", "CRD", "GRPO-Guard"), 4e-3),
    **dict.fromkeys(("AWM", "Flow-DPO", "Flow-DPPO", "Stepwise-Flow-GRPO", "G2RPO", "Flash-GRPO"), 2e-3),
    **dict.fromkeys(("RAM", "ADRPO", "Reward-weighted regression", "ORW-CFM-W2", "BranchGRPO"), 2e-3),
    **dict.fromkeys(("V-GRPO", "TempFlow-GRPO", "DiffusionART", "RVM", "MixGRPO"), 1e-3),
    "EPG": 2.5e-4,
}
# The rates of their runs and recipes; of methods that see the reward's gradient the middle of the first three.
FIELD_LEARNING_RATES: dict[str, float] = {
    **dict.fromkeys(GRADIENTS, 1e-3),
    **FIELD_CHOSEN,
}
GUIDANCE = 2.0  # of Table 1's second half
# What `advantageflow compare` compares, and with what, where it is not said
COMPARED, BASELINE = "objective=advantageflow-1.1,advantageflow-1-A,nft,flow-grpo", "nft"
# What the levers chose, and the same changes made to the rival's loss, which is none of its rivals
BEST, SAME_CHANGES = "AdvantageFlow, combined", "DiffusionNFT, combined"
ENDS = "evaluation.every=25"  # where the last score alone counts
QUICK = ("run.iterations=8", "evaluation.every=4", "evaluation.num_images=240")


def searched(method: str, rate: float) -> str:
    """The label of a method with a searched learning rate."""
    return f"{method}, {rate:g}"


def _arms() -> dict[str, tuple[str, ...]]:
    """Every arm by its label, learning rate included."""
    found = {method: (*changes, _rate(LEARNING_RATES[method])) for method, changes in METHODS.items()}
    found |= {gamma_arm(g): ("objective=advantageflow", f"objective.gamma={g}", found[AF][-1]) for g in GAMMAS}
    weaker = ("objective=advantageflow", "objective.beta=0.1")
    found |= {
        "AdvantageFlow(0.01-0.1A)": (*weaker, "objective.gamma=1-A", found[AF_A][-1]),
        "AdvantageFlow(0.01)": (*weaker, "objective.gamma=0.01", found[AF][-1]),
        "DiffusionNFT(β=0.1)": (*METHODS[NFT], "objective.beta=0.1", found[NFT][-1]),
        "AdvantageFlow(1.1), re-centred": (*found[AF], "advantage.recenter=true"),
    }
    found |= {step: (*changes, found[AF_A][-1]) for step, changes in STEPS.items()}
    found |= {label: (*changes, _rate(FIELD_LEARNING_RATES[label])) for label, changes in FIELD.items()}
    found |= {label: (*found[label], ENDS) for label in OTHERS | FEW_STEPS}
    found |= {lever(name): short_settings_of(name) for name in LEVERS}
    found |= {
        searched(method, rate): (*METHODS[method], _rate(rate)) for method in METHODS for rate in SEARCHED_RATES[method]
    }
    found[BEST] = settings_of(CHOSEN)
    found[SAME_CHANGES] = (*STEPS[NFT_1], *(change for change in found[BEST] if not change.startswith("objective")))
    return found | {
        searched(method, rate): (*changes, _rate(rate), ENDS)
        for method, changes in FIELD.items()
        for rate in FIELD_RATES[method]
    }


def _rate(rate: float) -> str:
    return f"learn.learning_rate={rate}"


ARMS = _arms()


def changes_of(label: str, others: Sequence[str] = ()) -> tuple[str, ...]:
    """An arm's changes, without those of keys that others change too: the others win."""
    keys = {change.partition("=")[0] for change in others}
    return tuple(change for change in ARMS[label] if change.partition("=")[0] not in keys)


@dataclass(frozen=True)
class Panel:
    """Arms compared on one recipe.

    Args:
        score: the held-out score that counts.
        baseline: the arm whose best sets the target of the time ratio.
        parts: held-out scores whose sum is `score`; none where it is one of the recipe's.
        finalists: how many arms, the best on the first seed, get the other seeds as well, and the baseline; 0 for all.
    """

    name: str
    title: str
    recipe: str
    score: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str = NFT
    parts: tuple[str, ...] = ()
    finalists: int = 0


def summed(panel: Panel) -> Panel:
    """The panel scored by the reward that its policies learn from."""
    parts = ("clip", "preference")
    return replace(panel, name=f"{panel.name}-sum", title="sum of the learned rewards", score="sum", parts=parts)


FOUR, THREE_SEEDS = tuple(METHODS), (0, 1, 2)
SCENES = Panel("scenes", "exact verifier", "paper/scenes", "graded", FOUR, (0, 1, 2, 3, 4))
PREFERENCE = Panel("preference", "learned preference", "paper/preference", "preference", FOUR, THREE_SEEDS)
CLIP = Panel("clip", "learned image-text score", "paper/clip", "clip", FOUR, THREE_SEEDS)
WORDS = Panel("words", "words read by OCR", "paper/words", "ocr", FOUR, THREE_SEEDS)
MULTI = Panel("multi", "the verifier, never trained on", "paper/multi", "strict", FOUR, THREE_SEEDS)
LARGE = Panel("large", "the verifier, never trained on", "paper/large", "strict", (AF_A, AF, NFT), THREE_SEEDS)
SEARCH = Panel(
    "search",
    "learning rates",
    "paper/scenes",
    "graded",
    tuple(searched(method, rate) for method in METHODS for rate in SEARCHED_RATES[method]),
    (SEARCH_SEED,),
    searched(NFT, SEARCHED_RATES[NFT][0]),
)


def _field_search(name: str, title: str, recipe: str, score: str, methods: Iterable[str]) -> Panel:
    arms = tuple(searched(method, rate) for method in methods for rate in FIELD_RATES[method])
    return Panel(name, title, recipe, score, arms, (SEARCH_SEED,), arms[0])


FRONTIER = (BEST, *CURVED, AF, AF_A, GRPO)
FIELD_SEARCH = (
    _field_search("search-others", "learning rates of other methods", "paper/scenes", "graded", CURVED | OTHERS),
    _field_search("search-gradients", "learning rates of methods of a differentiable reward", "paper/preference",
                  "preference", GRADIENTS),
    _field_search("search-few-steps", "learning rates of methods of average velocities", "paper/few-steps", "graded",
                  FEW_STEPS),
)  # fmt: skip
FIGURES: dict[str, tuple[Panel, ...]] = {
    "search": (SEARCH,),
    "field-search": FIELD_SEARCH,
    "fig2": (SCENES, PREFERENCE, CLIP, WORDS),
    "fig3a": (
        summed(MULTI),
        replace(MULTI, name="multi-clip", title="its image-text part", score="clip"),
        replace(MULTI, name="multi-preference", title="its preference part", score="preference"),
        MULTI,
    ),
    "fig3b": (
        Panel("gamma", "rollout weight γ", "paper/scenes", "graded",
              (gamma_arm(0.2), gamma_arm(0.5), AF, gamma_arm(2), gamma_arm(5)), THREE_SEEDS, AF),
        Panel("unregularized", "without the rollout term", "paper/scenes", "graded", (AF, gamma_arm(0)), THREE_SEEDS,
              AF),
        Panel("recentred", "advantages re-centred", "paper/scenes", "graded",
              (AF, "AdvantageFlow(1.1), re-centred"), THREE_SEEDS, AF),
    ),
    "fig3c": (
        Panel("words-weak", "words, β = 0.1", "paper/words", "ocr",
              ("AdvantageFlow(0.01-0.1A)", "AdvantageFlow(0.01)", "DiffusionNFT(β=0.1)", GRPO),
              THREE_SEEDS, "DiffusionNFT(β=0.1)"),
    ),
    "fig5": (
        summed(LARGE),
        LARGE,
    ),
    "steps": (
        Panel("steps", "from DiffusionNFT to AdvantageFlow(1-A)", "paper/scenes", "graded", (NFT, *STEPS, AF_A),
              THREE_SEEDS),
    ),
    "table1": (MULTI,),
    "lever-search": (
        Panel("levers", "changes, 1920 images", "paper/scenes", "graded", tuple(map(lever, LEVERS)), LEVER_SEEDS,
              lever("start"), finalists=FINALISTS),
    ),
    "frontier": (
        replace(SCENES, name="frontier-scenes", arms=(*FRONTIER, SAME_CHANGES), baseline=BEST),
        *(
            replace(panel, name=f"frontier-{panel.name}", arms=FRONTIER, baseline=BEST)
            for panel in (PREFERENCE, CLIP, WORDS)
        ),
    ),
    "methods": (
        Panel("others", "other methods", "paper/scenes", "graded", (AF, AF_A, NFT, GRPO, *CURVED, *OTHERS),
              THREE_SEEDS, AF),
        Panel("gradients", "methods of a differentiable reward", "paper/preference", "preference",
              (AF, AF_A, NFT, GRPO, *GRADIENTS), THREE_SEEDS, AF),
        Panel("few-steps", "pictures in four steps", "paper/few-steps", "graded", tuple(FEW_STEPS), THREE_SEEDS,
              "MeanFlowNFT"),
    ),
}  # fmt: skip


def figures(name: str) -> list[str]:
    """The figures that a command's argument names.

    Raises:
        ConfigError: there is none of that name.
    """
    if name == "all":
        return list(FIGURES)
    if name not in FIGURES:
        raise ConfigError(f"unknown figure {shown(name)}; allowed: {', '.join(FIGURES)}, all")
    return [name]
