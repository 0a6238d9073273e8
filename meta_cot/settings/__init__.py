# SPDX-License-Identifier: Apache-2.0
"""Typed groups of settings, config files, the command line."""
