// The headers need no other, may come twice and in C++ too, and their macros are values.
#include <nimbert.hpp>
#include <nimbert.hpp>

#include <nimbert.h>
#include <nimbert.h>

static const nimbert_options options = NIMBERT_OPTIONS_INIT;
static const nimbert_call_options call_options = NIMBERT_CALL_OPTIONS_INIT;

template <typename T>
constexpr bool only_moves = !std::is_copy_constructible_v<T> && std::is_nothrow_move_constructible_v<T>;

static_assert(only_moves<nimbert::Classifier> && only_moves<nimbert::Results> && only_moves<nimbert::Call>);

int main() {
    bool is_right = options.size == sizeof options && call_options.size == sizeof call_options;
    return is_right && nimbert::version() == NIMBERT_VERSION ? 0 : 1;
}
