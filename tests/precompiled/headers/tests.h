// What library.h is to src/, for the unit tests: the same headers and GoogleTest.
#ifndef POSTERN_TESTS_PRECOMPILED_HEADERS_TESTS_H_
#define POSTERN_TESTS_PRECOMPILED_HEADERS_TESTS_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "library.h"

#endif
