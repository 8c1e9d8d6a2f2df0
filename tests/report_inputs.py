"""What a report is made from, with figures that can be found again on its page."""

import copy

HOSTILE = '</pre></script><script>alert(1)</script><img src="https://evil.example/x.png">&amp;'


def estimate(value, width):
    return {"value": value, "low": value - width, "high": value + width}


def middle_scores():
    ways = {"psm": estimate(1.731, 0.1), "spm": estimate(1.742, 0.1)}
    gains = {"gain_psm_percent": estimate(17.3, 2.5), "gain_spm_percent": estimate(0.4, 2.0)}
    gains |= {f"gain_{way}_over_foreign_percent": estimate(21.7, 2.5) for way in ("psm", "spm")}
    stop = {"probability": estimate(0.613, 0.05), "nats": estimate(0.5, 0.1)}
    prefix_only = {"prefix_only": estimate(2.093, 0.1), "stop": {"psm": stop, "spm": stop}}
    prefix_only["stop"]["spm_foreign"] = {"probability": estimate(0.0517, 0.01)}
    filled = {"probability": estimate(0.0743, 0.01), "middle_probability": estimate(0.0971, 0.01)}
    filled |= {"first": {n: estimate(0.333, 0.01) for n in ("text", "end", "sentinel")}}
    filled = {"filled": {"psm": filled, "spm": filled}}
    return {**ways, **gains, **prefix_only, **filled, "spans": 77, "bytes": 4321}


def silence():
    rates = {name: estimate(value, 0.01) for name, value in (("quiet", 0.813), ("show", 0.927))}
    rates["right"] = estimate(0.87, 0.01)
    floor = {name: estimate(0.5, 0.01) for name in rates}
    orders = {order: rates | {"quiet_at_show": rates} for order in ("psm", "spm")}
    return {"spans": 40, "floors": {"two_characters": floor}, **orders}


def end(probability):
    return {"probability": estimate(probability, 0.01), "spans": 26}


def answer_scores(exact, similarity):
    names = ("exact_match", "exact_match_stripped", "first_line_match", "syntax_valid")
    scores = {name: estimate(exact, 0.01) for name in names}
    length = estimate(28.6, 3.0)
    return scores | {"edit_similarity": estimate(similarity, 0.05), "length_error": length}


def hole(kind, path, exact=False, **texts):
    fields = {"prefix": "def f():\n    ", "truth": "return 1", "generated": "return 2"}
    fields |= {"suffix": "\n", **texts}
    return {"repo": "left", "path": path, "kind": kind, "exact": exact, "stopped": True, **fields}


def results():
    """results.json as `python -m evaluation` writes it, with figures found nowhere else."""
    part = estimate(1.357, 0.1) | {"gzip": 2.468, "xz": 2.579, "files": 23, "bytes": 123_456}
    kind = {
        "spans": 26,
        "python_spans": 26,
        "model": answer_scores(0.127, 0.583) | {"stopped": estimate(0.871, 0.02)},
        "floors": {
            "empty": answer_scores(0.0, 0.0),
            "copy_previous_line": answer_scores(0.037, 0.316),
        },
        "new": {"spans": 19, "exact": 3},
    }
    return {
        "kind": "heldout",
        "settings": {
            **{"mode": "psm", "max_new_tokens": 93, "tokenizer": "a" * 64},
            "corpus_fingerprint": "c" * 64,
        },
        "scores": {"bits_per_byte": estimate(1.357, 0.1)},
        "bits_per_byte": {
            **{"model": estimate(1.357, 0.1), "gzip": estimate(2.468, 0.2)},
            **{"xz": estimate(2.579, 0.2), "by_language": {"python": part}},
            **{"by_repository": {"left": part}, "files": 23, "bytes": 123_456, "repositories": 7},
        },
        "middle_bits_per_byte": middle_scores() | {"by_kind": {"single_line": middle_scores()}},
        "ends": {
            "psm": {"by_length": {"64": end(0.523), "256": end(0.634)}, "spread": 0.111},
            "spm": {"by_length": {"256": end(0.456)}, "spread": 0.0},
        },
        "silence": silence(),
        "infilling": {k: copy.deepcopy(kind) for k in ("single_line", "multi_line", "random")},
        "samples": [hole("single_line", f"{name}.py") for name in "abc"],
        "seconds": 41.3,
    }


def corpus_manifest():
    def amount(files, size):
        return {"files": files, "bytes": size}

    return {
        **{"kind": "corpus", "fingerprint": "c" * 64, "shards": []},
        "counts": {
            "read": amount(1000, 9_000_000),
            "kept": amount(777, 7_000_000),
            "dropped": {"not_utf8": amount(223, 2_000_000) | {"samples": ["left/latin.py"]}},
        },
        "splits": {"train": amount(666, 6_160_000), "held_out": amount(111, 840_000)},
        "languages": {
            "train": {"python": amount(666, 6_160_000)},
            "held_out": {"python": amount(111, 840_000)},
        },
        "licenses": {f"Licence-{i}": amount(i + 1, 1000 * (i + 1)) for i in range(14)},
        "repositories": {"left": amount(111, 840_000), "right": amount(666, 6_160_000)},
        "held_out_repositories": ["left"],
    }


def metrics():
    """300 steps of 1000 tokens at 500 tokens a second."""
    for step in range(100, 400, 100):
        yield {
            **{"step": step, "time": float(step), "train/loss": 3.0 - step / 1000},
            **{"train/loss_ar": 2.9 - step / 1000, "train/loss_middle": 3.1 - step / 1000},
            **{"train/learning_rate": 0.003, "train/grad_norm": 0.7},
            **{"train/tokens_per_second": 500.0, "train/memory_gib": 1.25},
        }
        yield {"step": step, "eval/bits_per_byte": 1.9, "eval/middle_bits_per_byte": 2.05}
