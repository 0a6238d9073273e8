# SPDX-License-Identifier: Apache-2.0
"""Problems in words that a user has in files: GSM8K, MATH and their like."""
