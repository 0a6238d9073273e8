# SPDX-License-Identifier: Apache-2.0
"""The Java rules that are built into Bazel 4, by their names in rules_java."""

java_import = native.java_import
java_runtime = native.java_runtime
java_toolchain = native.java_toolchain
