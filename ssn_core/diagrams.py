"""The course report's diagrams (its figures 1 to 5 and 15), drawn anew: boxes, arrows and labels in two languages.

Coordinates are millimetres of the printed page; texts are "English|Italian".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from .canvas import Box, Canvas
from .style import publish


def taxonomy(_: object = None, language: str = "en") -> Figure:
    """Figure 1: the four ways of making anomalies (after Wang et al., A Survey on Industrial Anomalies Synthesis,
    2025), where each acts, what it needs, and where SuperSimpleNet stands."""
    canvas = Canvas(76, language)
    columns = (78, 108, 141)
    for x, head in zip(columns, ("where it acts|dove agisce", "needs|richiede", "examples|esempi"), strict=True):
        canvas.text(x, 72.5, head, 7, color="#555555", style="italic")
    root = canvas.box(14, 36, 25, 18, "Industrial~anomaly~synthesis|Sintesi~di anomalie~industriali", "data")
    rows = (
        ("Hand-crafted|Regole manuali", "pixels|pixel", "no training|nessun training", "CutPaste, DRAEM"),
        (
            "Distribution hypothesis|Ipotesi di distribuzione",
            "features|feature",
            "a frozen backbone|una backbone congelata",
            "SimpleNet,\nSuperSimpleNet",
        ),
        (
            "Generative models|Modelli generativi",
            "whole images|immagini intere",
            "a trained GAN or\ndiffusion model|una GAN o un modello\ndi diffusione",
            "image synthesis\nand translation|sintesi e traduzione\ndi immagini",
        ),
        (
            "Vision-language models|Modelli visione-linguaggio",
            "images and text|immagini e testo",
            "a large pretrained\nmodel, prompts|un grande modello\npreaddestrato, prompt",
            "text-guided\nsynthesis|sintesi guidata\ndal testo",
        ),
    )
    for i, (name, *cells) in enumerate(rows):
        y, ours = 62 - 17 * i, i == 1
        box = canvas.box(48, y, 33, 12, name, "trained" if ours else "plain", 6.6)
        canvas.arrow(root.at("right"), (29, root.y), (29, y), box.at("left"), role="plain")
        for x, text in zip(columns, cells, strict=True):
            canvas.text(x, y, text, 6.6, weight="bold" if ours and x == columns[-1] else "normal")
        if i:
            canvas.ax.plot([66, 158], [y + 8.5] * 2, color="#DDDDDD", lw=0.6)
    return canvas.figure


def simplenet(_: object = None, language: str = "en") -> Figure:
    """Figure 2: SimpleNet's training and what remains of it at inference."""
    canvas = Canvas(58, language)
    adaptor = _features(canvas, 36, "Upscaling\nto layer2's size|Upscaling\nalla layer2")
    noise = canvas.box(96, 52, 36, 10, "Gaussian noise\non the whole map|Rumore gaussiano\nsu tutta la mappa", "noise")
    plus = canvas.circle(96, 36, "+")
    canvas.arrow(adaptor.at("right"), plus.at("left"))
    canvas.arrow(noise.at("bottom"), plus.at("top"), role="noise", dashed=True)
    text = "Discriminator\ntwo layers,\none cell at a time|Discriminatore\ndue strati,\nuna cella per volta"
    head = canvas.box(120, 29, 24, 17, text, "trained", 6.6)
    canvas.arrow(plus.at("right"), (104, 36), (104, 31), (108, 31), role="noise", dashed=True)
    canvas.arrow(adaptor.at("bottom"), (adaptor.x, 25), (108, 25))
    canvas.text(92, 21.5, "clean copy,\nthe only one at inference|copia pulita,\nl'unica in inferenza", 6)
    image = canvas.box(148, 36, 20, 11, "Anomaly map|Mappa di~anomalia", "output", 6.6)
    score = canvas.box(148, 19, 20, 11, "Score\nits maximum|Punteggio\nil suo massimo", "output", 6.6)
    canvas.arrow(head.at("right", 3), (135, 32), (135, 36), image.at("left"))
    canvas.arrow(image.at("bottom"), score.at("top"))
    _legend(canvas, 4)
    return canvas.figure


def supersimplenet(_: object = None, language: str = "en") -> Figure:
    """Figure 3: SuperSimpleNet: noise inside Perlin masks, two heads, the map read by the second."""
    canvas = Canvas(86, language)
    adaptor = _features(canvas, 60, "Upscaling\nto H/4 × W/4|Upscaling\na H/4 × W/4")
    plus = canvas.circle(97, 60, "+")
    for x, text in ((80, "Perlin mask M|Maschera di Perlin M"), (114, "Noise ε ∼ N(0, σ²)|Rumore ε ∼ N(0, σ²)")):
        source = canvas.box(x, 79, 28, 10, text, "noise")
        canvas.arrow(source.at("bottom"), (x, 70), (97, 70), plus.at("top"), role="noise", dashed=True)
    canvas.text(97, 70, "M · ε", 7.5, bbox={"fc": "white", "ec": "none", "pad": 1})
    canvas.arrow(adaptor.at("right"), plus.at("left"))
    canvas.text(90.5, 62.6, "A", 7)
    canvas.text(105.5, 57, "P = A + M·ε", 6)
    text = "Segmentation head\n1×1, BN, LeakyReLU,\n1×1|Testa di segment.\n1×1, BN, LeakyReLU,\n1×1"
    head = canvas.box(126.5, 56, 27, 17, text, "trained", 6.1)
    canvas.arrow(plus.at("right"), (113, 60))
    out = canvas.box(150, 56, 17, 12, "Anomaly~map|Mappa di~anomalia", "output", 6.6)
    canvas.arrow(head.at("right"), out.at("left"))
    text = (
        "Classification head\n5×5, BN, ReLU, global max\nand mean, linear layer|"
        "Testa di classificazione\n5×5, BN, ReLU, massimo e\nmedia globali, strato lineare"
    )
    classify = canvas.box(108, 26, 40, 17, text, "trained", 6.4)
    canvas.arrow(plus.at("bottom"), (97, 34.5))
    text = (
        "features: adapted (2024)\nor before the adaptor (2025)|feature: adattate (2024)\no prima dell'adaptor (2025)"
    )
    canvas.text(78.5, 44, text, 6)
    canvas.arrow(out.at("bottom"), (150, 43), (120, 43), (120, 34.5))
    canvas.text(136, 45, "map, no gradient back|mappa, senza gradiente", 6)
    score = canvas.box(150, 26, 17, 12, "Image~score|Punteggio~d'immagine", "output", 6.6)
    canvas.arrow(classify.at("right"), score.at("left"))
    text = (
        "Training: truncated L1 and focal loss on\nthe map, focal loss on the image score.\n"
        "Inference: M = 0, nothing is added.|"
        "Training: L1 troncata e focal loss sulla\nmappa, focal loss sul punteggio d'immagine.\n"
        "Inferenza: M = 0, nulla viene sommato."
    )
    canvas.text(36, 27, text, 6.4)
    _legend(canvas, 6)
    return canvas.figure


def workflow(_: object = None, language: str = "en") -> Figure:
    """Figure 4: the way of the data in this project, from a data set to the report."""
    canvas = Canvas(66, language)
    texts = (
        (
            "Data set\nMVTec AD, KolektorSDD2,\nsynthetic; validated|"
            "Data set\nMVTec AD, KolektorSDD2,\nsintetico; validato",
            "data",
        ),
        (
            "Frozen trunk\nlayer2, layer3;\nonce per image|Trunk congelato\nlayer2, layer3;\nuna volta per immagine",
            "frozen",
        ),
        ("Feature cache\nin memory or\non disk|Cache di feature\nin memoria o\nsu disco", "plain"),
        ("Training\nRunConfig: one\nchange per preset|Training\nRunConfig: una\nmodifica per preset", "trained"),
        (
            "Run folder\nmetrics, scores, curves,\nmaps, conditions, seed|"
            "Cartella del run\nmetriche, punteggi, curve,\nmappe, condizioni, seme",
            "output",
        ),
        ("Notebooks\ntables and figures\nfrom files alone|Notebook\ntabelle e figure\nsolo da file", "plain"),
        (
            "Report\nin two languages, every\nnumber read from a file|"
            "Relazione\nin due lingue, ogni\nnumero letto da un file",
            "output",
        ),
        (
            "Reference figures\npublished results,\ncourse report's log|"
            "Valori di riferimento\nrisultati pubblicati,\nlog della relazione",
            "data",
        ),
    )
    places = [(22 + 38.6 * i, 54) for i in range(4)] + [(137.8 - 38.6 * i, 26) for i in range(4)]
    boxes = [canvas.box(*place, 33, 16, *text, 6.8) for place, text in zip(places, texts, strict=True)]
    sides = [("right", "left")] * 3 + [("bottom", "top")] + [("left", "right")] * 2
    for one, other, (leave, enter) in zip(boxes, boxes[1:], sides, strict=False):
        canvas.arrow(one.at(leave), other.at(enter))
    notebooks, report, reference = boxes[5:]
    canvas.arrow(reference.at("right"), report.at("left"))
    canvas.arrow(reference.at("bottom"), (reference.x, 13), (notebooks.x, 13), notebooks.at("bottom"))
    text = (
        "One direction, no way back: everything after the run folder reads files and never trains. "
        "Profiles say which runs are made.|"
        "Una sola direzione: dopo la cartella del run si leggono solo file e non si addestra. "
        "I profili dicono quali run fare."
    )
    canvas.text(80, 7, text, 6.3)
    return canvas.figure


def modifications(_: object = None, language: str = "en") -> Figure:
    """Figure 5: the three modifications, what each changes, what it aims at."""
    canvas = Canvas(74, language)
    text = (
        "Baseline\nSuperSimpleNet,\nWide-ResNet50,\n33.7 M parameters|"
        "Baseline\nSuperSimpleNet,\nWide-ResNet50,\n33,7 M parametri"
    )
    base = canvas.box(19, 38, 32, 22, text, "frozen", 6.8)
    rows = (
        (
            "1  Backbone and adaptor\nA: ResNet18, linear 1×1\nB: ResNet18, 3×3 + BN + ReLU|"
            "1  Backbone e adaptor\nA: ResNet18, lineare 1×1\nB: ResNet18, 3×3 + BN + ReLU",
            "Efficiency\nlatency, memory, 4.6 M and\n5.7 M parameters|"
            "Efficienza\nlatenza, memoria, 4,6 M e\n5,7 M parametri",
            "trained",
        ),
        (
            "2  Learned noise\nv1: unbounded generator\nv2: β·tanh, latent, 3:1|"
            "2  Rumore appreso\nv1: generatore senza limite\nv2: β·tanh, latente, 3:1",
            "Robustness\nno σ to tune per backbone,\nfine textures|"
            "Robustezza\nnessun σ da regolare per\nbackbone, texture fini",
            "noise",
        ),
        (
            "3  Weak supervision\nGAP + CAM in place of the\nsegmentation head|"
            "3  Supervisione debole\nGAP + CAM al posto della\ntesta di segmentazione",
            "Annotation cost\nimage labels instead of\npixel masks|"
            "Costo di annotazione\netichette d'immagine invece\ndi maschere",
            "marked",
        ),
    )
    for x, head in ((76, "what changes|che cosa cambia"), (135, "what for|a quale scopo")):
        canvas.text(x, 70.5, head, 7, color="#555555", style="italic")
    for i, (change, aim, role) in enumerate(rows):
        y = 59 - 22 * i
        left = canvas.box(76, y, 48, 17, change, role, 6.8)
        right = canvas.box(135, y, 44, 17, aim, "plain", 6.8)
        canvas.arrow(base.at("right"), (43, base.y), (43, y), left.at("left"))
        canvas.arrow(left.at("right"), right.at("left"))
    return canvas.figure


def gap_cam(_: object = None, language: str = "en") -> Figure:
    """Figure 15: the weakly supervised variant: one set of weights makes the score and the map."""
    canvas = Canvas(72, language)
    adaptor = _features(canvas, 52, "Upscaling\nto H/4 × W/4|Upscaling\na H/4 × W/4")
    conv = canvas.box(101, 52, 23, 15, "5×5, BN, ReLU\n128 channels f_k|5×5, BN, ReLU\n128 canali f_k", "trained", 6.4)
    canvas.arrow(adaptor.at("right"), conv.at("left"))
    canvas.box(93, 67, 42, 8, "segmentation head: removed|testa di segmentazione: rimossa", "removed", 6.4)
    pool = canvas.box(127, 61, 17, 12, "Global~average|Media~globale", "plain", 6.4)
    total = canvas.box(127, 40, 17, 12, "CAM\nΣ w_k f_k", "plain", 6.4)
    canvas.arrow(conv.at("right", 3), (115.5, 55), (115.5, 61), pool.at("left"))
    canvas.arrow(conv.at("right", -3), (115.5, 49), (115.5, 40), total.at("left"))
    weights = canvas.box(101, 25, 23, 12, "Linear layer\nweights w_k|Strato lineare\npesi w_k", "trained", 6.4)
    score = canvas.box(150, 61, 17, 12, "Image~score|Punteggio~d'immagine", "output", 6.4)
    out = canvas.box(150, 40, 17, 12, "Anomaly~map|Mappa di~anomalia", "output", 6.4)
    canvas.arrow(pool.at("right"), score.at("left"))
    canvas.arrow(total.at("right"), out.at("left"))
    canvas.arrow(weights.at("right"), (127, 25), total.at("bottom"), role="trained")
    canvas.arrow(weights.at("right"), (138.5, 25), (138.5, 50), (150, 50), score.at("bottom"), role="trained")
    text = "the same weights make\nthe score and the map|gli stessi pesi fanno\nil punteggio e la mappa"
    canvas.text(127, 19, text, 6, color="#0072B2")
    text = (
        "Focal loss on image labels only.\nNo mask of the training set is opened.|"
        "Focal loss sulle sole etichette d'immagine.\nNessuna maschera di training viene aperta."
    )
    canvas.text(41, 27, text, 6.4)
    _legend(canvas, 6)
    return canvas.figure


#: name of the file and function, by the course report's numbers
DIAGRAMS: dict[str, Callable[..., Figure]] = {
    "fig01_taxonomy": taxonomy,
    "fig02_simplenet": simplenet,
    "fig03_supersimplenet": supersimplenet,
    "fig04_workflow": workflow,
    "fig05_modifications": modifications,
    "fig15_gap_cam": gap_cam,
}


def publish_diagram(name: str, folder: str | Path) -> Figure:
    """Draw one of ``DIAGRAMS`` and write it in both languages into ``folder``."""
    figure = publish(DIAGRAMS[name], [None], folder=folder, name=name)
    assert figure is not None
    return figure


def _features(canvas: Canvas, y: float, upscaling: str) -> Box:
    """What all methods share, from left to right at height ``y``: image, frozen trunk, upscaling, adaptor."""
    boxes = (
        canvas.box(10, y, 16, 12, "Image|Immagine", "data"),
        canvas.box(32, y, 19, 15, "Trunk\nlayer2, layer3\nfrozen|Trunk\nlayer2, layer3\ncongelato", "frozen", 6.6),
        canvas.box(55.5, y, 21, 13, upscaling, "plain", 6.4),
        canvas.box(77, y, 15, 13, "Adaptor\n1×1", "trained", 6.6),
    )
    for one, other in zip(boxes, boxes[1:], strict=False):
        canvas.arrow(one.at("right"), other.at("left"))
    return boxes[-1]


def _legend(canvas: Canvas, y: float) -> None:
    names = (
        "frozen|congelato",
        "trained|addestrato",
        "training only (dashed)|solo in training (tratteggio)",
        "output|uscita",
    )
    canvas.legend(y, tuple(zip(("frozen", "trained", "noise", "output"), names, strict=True)))
