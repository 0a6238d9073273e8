# SPDX-License-Identifier: Apache-2.0
"""What a run stands on: files, processes, signals, the lease of a workdir."""
