"""What any program needs: errors, whole files, typed records, locks, the device, processes, signals. Imports nothing of ours."""
