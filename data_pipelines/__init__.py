# SPDX-License-Identifier: Apache-2.0
"""Data on disk and on its way to the model; import the modules by name."""
