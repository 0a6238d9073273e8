# SPDX-License-Identifier: Apache-2.0
"""Countdown: problems, verifier, symbolic teacher."""
