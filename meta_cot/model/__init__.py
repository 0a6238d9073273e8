# SPDX-License-Identifier: Apache-2.0
"""Decoder-only transformer with a policy and a value head."""
