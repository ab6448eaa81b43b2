"""scikit-learn, whose estimators know few callbacks: training by epochs, curves, searches, evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.base import is_classifier
from sklearn.metrics import accuracy_score, confusion_matrix
from sklearn.utils.multiclass import unique_labels

from runyard import report
from runyard.report.progress import Progress, tell

#: Classes up to which a confusion matrix is told (spec 1.8).
MAX_CLASSES = 100


def monitor(category: str = "train") -> Callable[[int, Any, Any], bool]:
    """For `fit(…, monitor=monitor())` of gradient boosting: reports the loss of each stage."""

    def stage(number: int, estimator: Any, local: Any) -> bool:
        values = {"loss": estimator.train_score_[number]}
        improvements = getattr(estimator, "oob_improvement_", None)
        if improvements is not None:
            values["oob_improvement"] = improvements[number]
        tell(values, number + 1, category)
        # True would end the training.
        return False

    return stage


def fit_epochs(
    estimator: Any, x: Any, y: Any, *, epochs: int, classes: Any = None, validation: tuple[Any, Any] | None = None
) -> Any:
    """Trains with `partial_fit`, epoch by epoch, and reports score, loss and progress of each. Returns the estimator.

    `classes` are all labels that there are: those in `y` if they are not given.
    """
    # Regressors have no classes to be told.
    known = {"classes": unique_labels(y) if classes is None else classes} if is_classifier(estimator) else {}
    progress = Progress(0.0)
    progress.begin()
    for epoch in range(1, epochs + 1):
        estimator.partial_fit(x, y, **(known if epoch == 1 else {}))
        values = {"score": estimator.score(x, y)}
        if (loss := getattr(estimator, "loss_", None)) is not None:
            values["loss"] = loss
        tell(values, epoch, "train")
        if validation is not None:
            tell({"validation_score": estimator.score(*validation)}, epoch, "val")
        progress.done(epoch / epochs)
    return estimator


def curves(estimator: Any, category: str = "train") -> None:
    """What a fitted estimator remembers of its training: `loss_curve_`, `validation_scores_`, `train_score_`."""
    kept = {"loss_curve_": "loss", "train_score_": "loss", "validation_scores_": "validation_score"}
    for attribute, name in kept.items():
        found = getattr(estimator, attribute, None)
        for step, value in enumerate(found if found is not None else [], 1):
            tell({name: value}, step, category)


def search(results: Any) -> None:
    """The candidates of a grid or random search (`cv_results_`, or the search itself)."""
    results = getattr(results, "cv_results_", results)
    for number, parameters in enumerate(results["params"]):
        values = {"mean_test_score": results["mean_test_score"][number], "rank": results["rank_test_score"][number]}
        tell(values, number, "search")
        report.text(f"candidate_{number}", parameters, category="search")


def evaluation(estimator: Any, x: Any, y: Any, category: str = "evaluate") -> float:
    """Reports accuracy and confusion matrix of a classifier; returns the accuracy."""
    predicted = estimator.predict(x)
    accuracy = float(accuracy_score(y, predicted))
    report.metrics({f"{category}_accuracy": accuracy}, category=category)
    labels = list(estimator.classes_)
    if len(labels) < MAX_CLASSES:
        rows = confusion_matrix(y, predicted, labels=labels)
        report.matrix("confusion", rows, category=category, labels=labels)
    return accuracy
