"""The program behind the member `backbone_nas`: looks for a better network than the base model that is not too large.

A small evolution: of each generation the best one's children are tried. What it finds goes into the project's folder,
and the scores go to the project manager on the way.
"""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import numpy as np
import yaml
from network import Network, load_digits

GENERATIONS, CHILDREN, EPOCHS = 3, 3, 10
Design = tuple[tuple[int, ...], str]


def tell(kind: str, content: dict[str, object]) -> None:
    """A `status_update`; if nobody listens the search goes on."""
    ids = {f"{name}_id": os.environ[f"TANGO_{name.upper()}_ID"] for name in ("user", "project")}
    update = ids | {"container_id": os.environ["TANGO_CONTAINER"], "update_id": kind, "update_content": content}
    request = urllib.request.Request(f"{os.environ['TANGO_PM_URL']}/status_update", json.dumps(update).encode())
    request.add_header("Content-Type", "application/json")
    try:
        urllib.request.urlopen(request, timeout=3).close()
    except OSError as error:
        print(f"search: nobody hears {kind}: {error}", flush=True)


def mutated(design: Design, random: np.random.Generator) -> Design:
    """A child: another width of one layer, one layer more or less, or the other activation."""
    layers, activation = list(design[0]), design[1]
    choice = random.integers(4)
    if choice == 0:
        activation = "tanh" if activation == "relu" else "relu"
    elif choice == 1 and len(layers) > 1:
        layers.pop(int(random.integers(len(layers))))
    elif choice == 2 and len(layers) < 3:
        layers.insert(0, int(random.choice([32, 48, 64])))
    else:
        index = int(random.integers(len(layers)))
        layers[index] = max(8, int(layers[index] * random.choice([0.5, 0.75, 1.5, 2.0])))
    return tuple(layers), activation


def main() -> None:
    folder, shared = Path(os.environ["TANGO_PROJECT_DIR"]), Path(os.environ["TANGO_SHARED"])
    base = yaml.safe_load((folder / "basemodel.yaml").read_text())
    data, random = load_digits(shared), np.random.default_rng(1)
    scores: dict[Design, float] = {}
    best: tuple[float, Network] | None = None
    tell("nas_start", {"base": base["name"], "limit_kb": base["max_model_kb"]})

    def attempt(design: Design, generation: int) -> None:
        nonlocal best
        network = Network(list(design[0]), design[1], seed=len(scores))
        if design in scores or network.kilobytes > base["max_model_kb"]:
            return
        loss = network.train(data["train_x"], data["train_y"], EPOCHS)
        score = scores[design] = network.accuracy(data["val_x"], data["val_y"])
        print(f"search: {list(design[0])} {design[1]}: accuracy {score:.4f}, loss {loss:.4f}", flush=True)
        tell("evolution_search", {"generation": generation, "accuracy": score, "total": loss, "layers": str(design[0])})
        if best is None or score > best[0]:
            best = score, network

    attempt((tuple(base["backbone"]), "relu"), 0)
    for generation in range(1, GENERATIONS + 1):
        parent = max(scores, key=lambda design: scores[design])
        for _ in range(CHILDREN):
            attempt(mutated(parent, random), generation)
    assert best is not None
    network = best[1]
    network.train(data["train_x"], data["train_y"], EPOCHS, rate=0.001)
    accuracy = network.accuracy(data["test_x"], data["test_y"])
    arrays = {f"weight_{number}": array for number, array in enumerate(network.weights)}
    arrays |= {f"bias_{number}": array for number, array in enumerate(network.biases)}
    np.savez(folder / "bestmodel.npz", allow_pickle=False, **arrays)
    found = {
        "class_name": "Network",
        "weight_file": "bestmodel.npz",
        "layers": network.layers,
        "activation": network.activation,
        "nc": 10,
        "names": [str(number) for number in range(10)],
        "input_tensor_shape": [1, 64],
        "input_data_type": "fp32",
        "test_accuracy": round(accuracy, 4),
        "tried": len(scores),
    }
    (folder / "neural_net_info.yaml").write_text(yaml.safe_dump(found, sort_keys=False))
    tell("nas_end", {"accuracy": accuracy, "tried": len(scores)})
    print(f"search: of {len(scores)} networks {network.layers} {network.activation}: {accuracy:.4f} on unseen images")


if __name__ == "__main__":
    main()
