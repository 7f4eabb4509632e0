"""What is run: every arm, and which arms each figure of the paper compares on which recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

from advantageflow.config import ConfigError
from advantageflow.errors import shown

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
# Other methods in the world of the recipe scenes, each as its own recipe has it; their learning rates are not searched.
_SLOW, _FAST = "learn.learning_rate=0.001", "learn.learning_rate=0.004"
_TREES = ("rollout.images_per_prompt=16", "rollout.prompts_per_iteration=12", "objective.splits=[0,1,2,3]")
OTHERS: dict[str, tuple[str, ...]] = {
    "RAM": ("objective=ram", _FAST),
    "ADRPO": ("objective=adrpo", _FAST),
    "Reward-weighted regression": ("objective=rwr", _FAST),
    "ORW-CFM-W2": ("objective=orw-cfm-w2", "policy.rollout_every=5", _FAST),
    "CRD": ("objective=crd", "objective.reference_guidance=2", _FAST),
    "MixGRPO": ("objective=mix-grpo", "objective.iterations=3", _SLOW),
    "FlowAWR": ("objective=flow-awr", "policy.rollout_decay=0.8", "learn.learning_rate=0.002"),
    "AWM": ("objective=awm", _FAST),
    "DGPO": ("objective=dgpo", "policy.rollout_decay=0", "learn.learning_rate=0.002"),
    "EPG": ("objective=epg", _FAST),
    "V-GRPO": ("objective=v-grpo", _FAST),
    "Best of group": ("objective=rwr", "advantage.normalize=group_best", _FAST),
    "GRPO-Guard": ("objective=grpo-guard", "learn.transitions=4", _SLOW),
    "Flow-DPPO": ("objective=flow-dppo", "objective.noisy_steps=3", "learn.t_draws=3", _SLOW),
    "BranchGRPO": ("objective=branch-grpo", *_TREES, "learn.transitions=6", "learn.t_draws=4", _SLOW),
}
GRADIENTS: dict[str, tuple[str, ...]] = {
    "DRaFT-K": ("objective=draft", "objective.last_steps=3", "learn.batch_size=64", _SLOW),
    "DRaFT-LV": ("objective=draft-lv", "objective.sigma=0.3", "learn.batch_size=64", _SLOW),
    "AlignProp": ("objective=align-prop", "objective.weight=1", "learn.batch_size=64", _SLOW),
    "DRTune": ("objective=drtune", "objective.active_steps=3", "learn.batch_size=64", _SLOW),
    "FlowBP-Sparse": ("objective=flow-bp", "learn.batch_size=64", _SLOW),
    "ReFL": ("objective=refl", "objective.last_steps=6", "learn.batch_size=64", _SLOW),
}
GUIDANCE = 2.0  # of Table 1's second half
# What `advantageflow compare` compares, and with what, where it is not said
COMPARED, BASELINE = "objective=advantageflow-1.1,advantageflow-1-A,nft,flow-grpo", "nft"
QUICK = ("run.iterations=8", "evaluation.every=4", "evaluation.num_images=240")


def gamma_arm(gamma: float) -> str:
    return f"AdvantageFlow(γ={gamma:g})"


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
    found |= OTHERS | GRADIENTS
    return found | {
        searched(method, rate): (*changes, _rate(rate))
        for method, changes in METHODS.items()
        for rate in SEARCHED_RATES[method]
    }


def _rate(rate: float) -> str:
    return f"learn.learning_rate={rate}"


ARMS = _arms()


@dataclass(frozen=True)
class Panel:
    """Arms compared on one recipe.

    Args:
        score: the held-out score that counts.
        baseline: the arm whose best sets the target of the time ratio.
        parts: held-out scores whose sum is `score`; none where it is one of the recipe's.
    """

    name: str
    title: str
    recipe: str
    score: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str = NFT
    parts: tuple[str, ...] = ()


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
FIGURES: dict[str, tuple[Panel, ...]] = {
    "search": (SEARCH,),
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
    "methods": (
        Panel("others", "other methods", "paper/scenes", "graded", (AF, GRPO, *OTHERS), THREE_SEEDS, AF),
        Panel("gradients", "methods of a differentiable reward", "paper/preference", "preference",
              (AF, GRPO, *GRADIENTS), THREE_SEEDS, AF),
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
