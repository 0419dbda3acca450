"""What the scripts share. Data flows one way: config → data → batches → model → engine → metrics and plots → tracking."""
