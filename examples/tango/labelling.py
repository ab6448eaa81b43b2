"""The member `labelling`: brings scikit-learn's handwritten digits, with their labels, into the shared folder.

Usage: labelling.py [--port N]. A class with `start`, `stop` and `status`, as `member` takes it.
"""

from __future__ import annotations

import argparse

from runyard.member import Task, member


class Labelling:
    def start(self, task: Task) -> None:
        import numpy as np
        import yaml
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(images))
        train, val, test = np.split(order, [1200, 1500])
        task.check()
        folder = task.shared / "datasets" / "digits"
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"train": train, "val": val, "test": test}
        with (folder / "digits.npz.new").open("wb") as file:
            np.savez(
                file,
                **{f"{name}_x": (images[rows] / 16.0).astype(np.float32) for name, rows in parts.items()},
                **{f"{name}_y": labels[rows] for name, rows in parts.items()},
            )
        (folder / "digits.npz.new").replace(folder / "digits.npz")
        about = {"path": "digits.npz", **{name: f"{name}_x" for name in parts}, "names": [str(n) for n in range(10)]}
        (folder / "dataset.yaml").write_text(yaml.safe_dump(about | {"num_classes": 10}, sort_keys=False))
        task.update("train_dataset", {"found": len(train), "missing": 0, "total": len(images)})
        print(f"labelling: {len(images)} images, {len(train)} of them to train on", flush=True)

    def stop(self, task: Task) -> None:
        print(f"labelling: project {task.project_id} is stopped", flush=True)

    def status(self, task: Task) -> str:
        return "running"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, help="port to listen on (default: the protocol's own, 8095)")
    member("labelling")(Labelling).run(port=parser.parse_args().port)
