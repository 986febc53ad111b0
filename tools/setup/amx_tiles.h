/* Included before each C++ file of llama.cpp, so that its code for AMX works.
 *
 * LDTILECFG reads 64 bytes (Intel, Instruction Set Reference). GCC tells its optimizer of 8
 * (amxtileintrin.h, GCC 12), so what sets the other 56 is left out as if nobody read it, and the
 * first product of matrices crashes. Here the instruction says what it reads.
 */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) \
  __asm__ volatile("ldtilecfg %0" : : "m"(*(const char(*)[64])(config)))
#endif
