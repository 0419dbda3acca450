"""From a model's predictions to all that is said of them: numbers, tables, figures, text."""
