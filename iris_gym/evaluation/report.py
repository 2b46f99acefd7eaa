"""The fidelity report as one page that needs nothing but itself: no script, no request, pictures inside."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources

import numpy as np

from iris_gym.evaluation import fidelity_figures as figures
from iris_gym.evaluation.codes import Codebook
from iris_gym.evaluation.fidelity import Strip
from iris_gym.evaluation.findings import Findings
from iris_gym.evaluation.markup import count, estimate, figure, number, png, span, table, table_by_horizon
from iris_gym.evaluation.pictures import labelled_strip

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A browser that reads the page may fetch nothing."""

CODES_A_ROW = 8
CODE_GAP = 2

PROMISES = {
    "more": "The dream promises more than reality gives: the policy may be exploiting its errors.",
    "less": "The dream promises less than reality gives.",
    "same": "No difference between dream and reality can be told from this sample.",
    "unknown": "One game alone does not tell whether dream and reality differ.",
}


def page(findings: Findings, codebook: Codebook, strips: dict[str, Strip]) -> str:
    """The report as HTML."""
    body = [
        f"<h1>How far can this dream be trusted? <small>{escape(str(findings['env']))}</small></h1>",
        _protocol(findings),
        _warnings(findings, None),
        _in_brief(findings),
        *_sections(findings, codebook, strips),
        _games(findings),
    ]
    style = (resources.files("iris_gym.evaluation") / "report.css").read_text()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>Fidelity report: {escape(str(findings["env"]))}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def _protocol(findings: Findings) -> str:
    found = findings["protocol"]
    updates = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in found["updates"].items())
    games = findings["games"]
    return (
        f"<p>The agent (updates: {escape(updates)}; {found['env_steps_trained']:,} environment steps) played "
        f"{len(games)} real games, {sum(game['steps'] for game in games):,} steps, under the training protocol, where "
        f"a lost life is an end, as it is to the world model. The seeds are new, actions are sampled at temperature "
        f"{found['temperature']:g} without random ones. From {findings['starts']} frames of these games, drawn "
        f"uniformly, the dream starts with {count(findings['context'], 'real frame')} read, and goes on for "
        f"{findings['horizon']} steps. The world model reads {found['timesteps']} timesteps at most; when they are "
        f"full, it goes on with the last {found['overflow_context']}. Rewards are known to the dream by their sign "
        f"only. Bands and ranges in brackets are {findings['coverage']:.0%} bootstrap intervals over whole games, for "
        "steps of one game depend on each other; the bars of the calibration alone take steps for independent, and are "
        "narrower than they should be.</p>"
    )


def _in_brief(findings: Findings) -> str:
    horizons, last = findings["by_horizon"], findings["horizon"] - 1
    rows = [
        ("Next frame's tokens right, told the truth up to there", findings["tokens"]["accuracy"], None),
        ("… keeping the last frame's tokens", findings["tokens"]["last_frame_kept"], None),
        (f"Tokens right after {last + 1} dreamt steps", horizons["token_accuracy_dream"], last),
        ("… keeping the start's tokens", horizons["token_accuracy_start_kept"], last),
        (f"Squared pixel error after {last + 1} dreamt steps", horizons["pixel_error_dream"], last),
        ("… of reconstructing the real frame", horizons["pixel_error_reconstruction"], last),
        ("… of keeping the start frame", horizons["pixel_error_start_kept"], last),
        ("Reward's sign right, told the truth", findings["reward"]["accuracy"], None),
        ("Surprise at a real frame, nats a token", findings["surprise"]["all"], None),
        (f"Return in reality, {last + 1} steps", findings["return"]["real"], last),
        ("Return in the dream, from the same starts", findings["return"]["dream"], last),
    ]
    cells = [(name, estimate(curve, index)) for name, curve, index in rows]
    return (
        "<section><h2>In brief</h2>"
        f"<p><strong>{PROMISES[findings['return']['dream_promises']]}</strong></p>"
        + table(("measure", f"mean [{findings['coverage']:.0%}]"), cells)
        + "</section>"
    )


def _sections(findings: Findings, codebook: Codebook, strips: dict[str, Strip]) -> Iterable[str]:
    """Each figure with a sentence on how to read it, and its numbers as a table."""
    horizons = findings["by_horizon"]
    told, dreamt = horizons["token_accuracy_told"], horizons["token_accuracy_dream"]
    yield _section(
        findings,
        "Tokens by horizon",
        "How to read it: the gap between the blue and the orange line is what the dream loses by building on its own "
        "frames; where orange falls to the dotted line, the dream is worth no more than a still picture. Told the "
        "truth, the likeliest token is counted; the dream samples its own.",
        figures.tokens_by_horizon,
        f"Share of tokens right by steps after the start. Told the truth {span(told)}, in the dream {span(dreamt)}.",
        table_by_horizon(horizons, ["token_accuracy_told", "token_accuracy_dream", "token_accuracy_start_kept"]),
        "by_horizon",
    )
    yield _section(
        findings,
        "Pixel error by horizon",
        "How to read it: the dashed blue line is what the tokenizer costs by itself, even with perfect dynamics; what "
        "orange lies above it is what the dynamics cost. Most pixels never change, so the right panel looks only at "
        "those that differ from the game's median picture. Lower is better.",
        figures.errors_by_horizon,
        f"Mean squared pixel error by steps after the start: dream {span(horizons['pixel_error_dream'])}, "
        f"reconstruction alone {span(horizons['pixel_error_reconstruction'])}, "
        f"start frame kept {span(horizons['pixel_error_start_kept'])}.",
        table_by_horizon(
            horizons,
            [f"{kind}_{what}" for kind in ("pixel_error", "moving_error") for what in ("dream", "reconstruction")],
        ),
    )
    yield _section(
        findings,
        "Structural similarity by horizon",
        "How to read it: as the pixel error, but for shapes; 1 is an equal picture, higher is better.",
        figures.ssim_by_horizon,
        f"SSIM by steps after the start: dream {span(horizons['ssim_dream'])}, reconstruction alone "
        f"{span(horizons['ssim_reconstruction'])}.",
        table_by_horizon(horizons, ["ssim_dream", "ssim_reconstruction", "ssim_start_kept"]),
    )
    reward = findings["reward"]
    yield _section(
        findings,
        "Rewards",
        "How to read it: each row is a reward that really came, told the truth up to there; the count says what the "
        "likeliest guess was, p the mean probability that the world model gave. A good model is dark on the diagonal. "
        f"Always to say 0 would be right in {reward['always_zero_accuracy']:.1%} of the steps.",
        figures.reward_confusion,
        "Confusion matrix of the reward's sign; the numbers are in the table below.",
        table(
            ("came", *(f"guessed {sign}" for sign in reward["classes"])),
            [(str(sign), *map(str, row)) for sign, row in zip(reward["classes"], reward["confusion"], strict=True)],
        ),
        "reward",
    )
    yield _section(
        findings,
        "Calibration of rewards and ends",
        "How to read it: on the diagonal, what is given 30 % comes in 30 % of the cases; above it the world model is "
        "too careful, below it promises too much. The error is the mean distance to the diagonal over all steps, and "
        "small where events are rare: compare the shares in the table.",
        figures.calibration,
        "Reliability curves of the probabilities of a positive reward, a negative reward and an end.",
        _calibration_table(findings),
        "end",
    )
    survival = findings["survival"]
    yield _section(
        findings,
        "Survival of episodes",
        "How to read it: the share of episodes still going on so many steps after the start, in reality and in the "
        "dream where the policy acts by itself. A dream that ends too soon hides what comes later; one that never ends "
        "hides danger.",
        figures.survival,
        f"Survival by steps after the start. Reality {span(survival['real'])}, dream {span(survival['dream'])}.",
        table_by_horizon(survival, ["real", "dream"], first=0),
        "survival",
    )
    surprise = findings["surprise"]
    yield _section(
        findings,
        "Surprise over the game",
        "How to read it: how unlikely the real next frame was to the world model, in nats a token; 0 is certainty, and "
        "at the dash-dotted line it knows no more than how frequent each code is. A rise late in the game is a part of "
        "it that training seldom saw. Its own dreams surprise it by "
        f"{estimate(horizons['nats_dream'], 0)} at the first step: much less than reality means that it is too sure.",
        figures.surprise,
        f"Nats a token over the steps of the game, {estimate(surprise['all'])} on average.",
        table(
            ("from step", "nats a token", "frames"),
            [
                (str(edge), estimate(surprise["over_the_game"], index), str(surprise["over_the_game"]["count"][index]))
                for index, edge in enumerate(surprise["edges"][:-1])
            ],
        ),
    )
    found = findings["return"]
    yield _section(
        findings,
        "Return in dream and in reality",
        "How to read it: both lines add up the signs of the rewards from the same starts, with the same policy. Where "
        "the dream's lies clearly above, the policy has found something that pays in the dream only. "
        + PROMISES[found["dream_promises"]],
        figures.returns,
        f"Return by steps after the start. Reality {span(found['real'])}, dream {span(found['dream'])}, "
        f"difference {span(found['difference'])}.",
        table_by_horizon(found, ["real", "dream", "difference"]),
        "return",
    )
    used = findings["codebook"]
    yield _section(
        findings,
        "Codebook",
        f"How to read it: {used['used']} of {used['codes']} codes occur in real frames, {used['used_in_dreams']} in "
        f"the dreams; evenly used, {used['perplexity']:.1f} codes would carry as much. Orange points far off the line "
        f"are codes the dream draws too often or too seldom: {used['dream_distance']:.1%} of its tokens would have "
        "to change for equal frequencies.",
        figures.codes,
        f"Share of tokens of each code, most used first; {used['used']} codes are used.",
        table(
            ("code", "share in real frames", "share in dreams"),
            [(str(c), f"{used['real_shares'][c]:.4f}", f"{used['dream_shares'][c]:.4f}") for c in codebook.drawn],
        ),
    )
    yield (
        f"<section><h2>The {len(codebook.drawn)} most used codes</h2><p>How to read it: pairs, the most used first. "
        "Left, the mean of the real patches that the code stands for; right, what the decoder makes of it alone. A "
        "blurred left half is a code that stands for too many things.</p>"
        + figure(png(_code_tiles(codebook), 3), "Pairs of small pictures, one pair a code.", "pixels", "image/png")
        + "</section>"
    )
    yield "<section><h2>Dreams in pictures</h2>" + "".join(map(_strip, strips.items())) + "</section>"


def _section(
    findings: Findings,
    title: str,
    sentence: str,
    draw: Callable[[Findings], bytes],
    alt: str,
    numbers: str,
    about: str | None = None,
) -> str:
    return (
        f"<section><h2>{escape(title)}</h2>{_warnings(findings, about) if about else ''}<p>{escape(sentence)}</p>"
        + figure(draw(findings), alt, "plot", "image/svg+xml")
        + f"<details><summary>Numbers</summary>{numbers}</details></section>"
    )


def _strip(item: tuple[str, Strip]) -> str:
    name, strip = item
    rows = {"real": strip.real, "reconstruction": strip.reconstruction, "dream": strip.dream}
    end = f"the dream said that it was over after step {strip.dream_end}" if strip.dream_end else "no end was dreamt"
    caption = (
        f"The {name} of the starts by the dream's squared pixel error, {strip.error:.5f} on average: game "
        f"{strip.game}, step {strip.game_step}. How to read it: three rows, time goes to the right; the middle row is "
        f"the best that the dream could be. Rewards in reality {_rewards(strip.real_rewards)}; in the dream "
        f"{_rewards(strip.dream_rewards)}; {end}."
    )
    alt = f"Real frames, their reconstructions and the dream at the {name} start."
    return f"<h3>{name.capitalize()}</h3><p>{escape(caption)}</p>" + figure(
        png(labelled_strip(rows), 1), alt, "pixels", "image/png"
    )


def _rewards(rewards: Sequence[int]) -> str:
    steps = [f"{reward:+d} at step {step}" for step, reward in enumerate(rewards, 1) if reward]
    return ", ".join(steps) or "none"


def _code_tiles(codebook: Codebook) -> np.ndarray:
    """Pairs of patches, `CODES_A_ROW` of them a row, on white."""
    pairs = np.concatenate((codebook.patches, codebook.decoded), axis=2)
    framed = np.pad(pairs, ((0, 0), (0, CODE_GAP), (0, 2 * CODE_GAP), (0, 0)), constant_values=255)
    missing = -len(framed) % min(CODES_A_ROW, len(framed))
    whole = np.concatenate((framed, np.full((missing, *framed.shape[1:]), 255, np.uint8)))
    rows = whole.reshape(-1, min(CODES_A_ROW, len(framed)), *whole.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def _warnings(findings: Findings, about: str | None) -> str:
    """All warnings, or those about one part."""
    chosen = [warning for warning in findings["warnings"] if about in (None, warning["about"])]
    if not chosen:
        return ""
    items = "".join(f"<li>{escape(warning['message'])}</li>" for warning in chosen)
    head = "<strong>Warnings</strong>" if about is None else "<strong>Careful:</strong>"
    more = "<p>A larger sample: <code>--episodes</code>, <code>--starts</code>.</p>" if about is None else ""
    return f'<div class="warning" role="note">{head}<ul>{items}</ul>{more}</div>'


def _games(findings: Findings) -> str:
    rows = [
        (str(g["seed"]), str(g["steps"]), str(g["episodes"]), f"{g['return']:g}", "yes" if g["ended"] else "cut")
        for g in findings["games"]
    ]
    numbers = table(("seed", "steps", "episodes", "return (unclipped)", "ended"), rows)
    versions = ", ".join(f"{name} {version}" for name, version in findings["versions"].items())
    return (
        f"<section><h2>The real games</h2><details><summary>Numbers</summary>{numbers}</details>"
        f"<p>Made with {escape(versions)}. Every figure of this page is in the JSON file beside it.</p></section>"
    )


def _calibration_table(findings: Findings) -> str:
    frequencies = {
        "reward +1": findings["reward"]["frequency"]["positive"],
        "reward −1": findings["reward"]["frequency"]["negative"],
        "end": findings["end"]["frequency"],
    }
    errors = {
        "reward +1": findings["reward"]["calibration"]["positive"],
        "reward −1": findings["reward"]["calibration"]["negative"],
        "end": findings["end"]["calibration"],
    }
    return table(
        ("event", "share that came", "mean probability given", "expected calibration error"),
        [
            (name, f"{f['happened']:.5f}", f"{f['predicted']:.5f}", number(errors[name]["calibration_error"]))
            for name, f in frequencies.items()
        ],
    )
