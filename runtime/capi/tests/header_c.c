/* The header needs no other, may come twice, and its macros are values. */
#include <nimbert.h>
#include <nimbert.h>

static const nimbert_options options = NIMBERT_OPTIONS_INIT;
static const nimbert_call_options call_options = NIMBERT_CALL_OPTIONS_INIT;

/* Their bytes are read: there must be none that nobody sets. */
_Static_assert(sizeof(nimbert_options) == 6 * sizeof(size_t), "nimbert_options has no padding");
_Static_assert(sizeof(nimbert_call_options) == 2 * sizeof(size_t) + sizeof(uint64_t), "nor has nimbert_call_options");

int main(void) {
    int is_right = options.size == sizeof options && call_options.size == sizeof call_options;
    return is_right && nimbert_version()[0] != '\0' ? 0 : 1;
}
