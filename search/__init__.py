"""The hyper-parameter search: Ray Tune runs Optuna trials of the method and MLflow keeps what they found."""
