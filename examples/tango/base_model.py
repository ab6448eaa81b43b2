"""The member `bms`: selects the base model, the best of a few networks that fits the size that the project allows.

Usage: base_model.py [--port N]. A function, as `@member` takes it.
"""

from __future__ import annotations

import argparse

from runyard.member import Task, member

#: Name, and units of the hidden layers.
CANDIDATES = {"nano": [8], "tiny": [16], "small": [32], "medium": [64, 32], "large": [512, 256]}


@member("bms")
def select(task: Task) -> None:
    import yaml
    from network import Network, load_digits

    info = yaml.safe_load((task.folder / "project_info.yaml").read_text())
    limit = float(info.get("max_model_kb", 100))
    data = load_digits(task.shared)
    # A quarter of the images says enough to choose by.
    x, y = data["train_x"][:300], data["train_y"][:300]
    scores: dict[str, float] = {}
    for name, layers in CANDIDATES.items():
        task.check()
        network = Network(layers, seed=0)
        if network.kilobytes > limit:
            print(f"bms: {name} has {network.kilobytes:.0f} KB, more than {limit:g}", flush=True)
            continue
        network.train(x, y, epochs=10)
        scores[name] = network.accuracy(data["val_x"], data["val_y"])
        print(f"bms: {name} {layers} {network.kilobytes:.1f} KB, accuracy {scores[name]:.3f}", flush=True)
    if not scores:
        raise ValueError(f"no base model has {limit:g} KB or less: raise info.max_model_kb")
    best = max(scores, key=lambda name: scores[name])
    task.update("basemodel", {"model_name": best, "model_size": Network(CANDIDATES[best], seed=0).kilobytes})
    chosen = {"name": best, "nc": 10, "input_size": 64, "backbone": CANDIDATES[best], "max_model_kb": limit}
    (task.folder / "basemodel.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, help="port to listen on (default: the protocol's own, 8081)")
    select.run(port=parser.parse_args().port)
