# SPDX-License-Identifier: Apache-2.0
"""Tasks in which something is hidden, and attempts are answered.

A hidden variable is known only through what the environment says of earlier
attempts at the same question. All are finite, so that what the best policy
reaches is computed (`optimum`).
"""
