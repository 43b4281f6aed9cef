/* Work for AVX, AVX2, FMA, F16C and BMI, as a compiler makes it of plain C (-O3 -march=x86-64-v3) and of a few intrinsics. The same
   object file runs on the host and in a guest. Each kernel ends in a number. */
#include <immintrin.h>

#define N 1024
#ifndef ROUNDS
#define ROUNDS 1 /* how often each kernel runs: more of them become hot loops */
#endif
typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

static float f[N + 8], g[N + 8];
static double d[N + 8], e[N + 8];
static u32 a[N + 8], b[N + 8];
static u16 h[N + 8];
static u8 text[4 * N];
static u64 words[N];

static u64 sum(const void *from, u64 bytes) {
    const u8 *p = from;
    u64 hash = 0xCBF29CE484222325;
    for (u64 i = 0; i < bytes; i++)
        hash = (hash ^ p[i]) * 0x100000001B3;
    return hash;
}

static void fill(void) {
    u64 x = 88172645463325252;
    for (u32 i = 0; i < N; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        a[i] = (u32)x, b[i] = (u32)(x >> 32), words[i] = x;
        f[i] = (float)((int)a[i] % 1000) / 7.0f, g[i] = (float)((int)b[i] % 1000) / 3.0f;
        d[i] = (double)(long)x / 3e9, e[i] = (double)a[i] * 1e-3;
        for (u32 k = 0; k < 4; k++)
            text[4 * i + k] = (u8)(x >> 8 * k);
    }
}

static u64 dot(void) {
    float s = 0;
    for (u32 r = 0; r < 8; r++)
        for (u32 i = 0; i < N; i++)
            s += f[i] * g[(i + r) % N];
    return sum(&s, sizeof s);
}

static u64 axpy(void) {
    for (u32 i = 0; i < N; i++)
        d[i] = d[i] * 1.25 + e[i];
    for (u32 i = 0; i < N; i++)
        f[i] = f[i] > g[i] ? f[i] - g[i] : g[i] * f[i];
    return sum(d, N * sizeof *d) ^ sum(f, N * sizeof *f);
}

static u64 roots(void) {
    for (u32 i = 0; i < N; i++)
        e[i] = __builtin_sqrt(e[i]) / (d[i] + 1e9);
    return sum(e, N * sizeof *e);
}

static u64 integers(void) {
    for (u32 i = 0; i < N; i++)
        a[i] = (a[i] << (b[i] & 31)) ^ (a[i] >> 3) + b[i] * 2654435761u;
    int most = 0;
    for (u32 i = 0; i < N; i++)
        most = (int)a[i] > most ? (int)a[i] : most;
    return sum(a, N * sizeof *a) + (u32)most;
}

static u64 bytes(void) {
    u32 count = 0, total = 0;
    for (u32 i = 0; i < 4 * N; i++) {
        count += text[i] == 'e';
        total += text[i];
        text[i] = text[i] > 127 ? 255 - text[i] : text[i] + 1;
    }
    return sum(text, 4 * N) + count + ((u64)total << 32);
}

static u64 mixed(void) {
    for (u32 i = 0; i < N; i++)
        d[i] = (double)f[i] + (double)(int)a[i];
    for (u32 i = 0; i < N; i++)
        b[i] = (u32)(int)d[i] ^ (u32)(u16)a[i];
    return sum(b, N * sizeof *b);
}

static u64 gathered(void) {
    __m256i left = _mm256_setzero_si256();
    for (u32 i = 0; i < N; i += 8) {
        __m256i at = _mm256_and_si256(_mm256_loadu_si256((void *)(a + i)), _mm256_set1_epi32(N - 1));
        left = _mm256_add_epi32(left, _mm256_i32gather_epi32((const int *)b, at, 4));
        __m256d some = _mm256_i32gather_pd(d, _mm256_castsi256_si128(at), 8);
        _mm256_storeu_pd(e + (i & ~7u), some);
    }
    return sum(&left, sizeof left) ^ sum(e, N * sizeof *e);
}

static u64 masked(void) {
    for (u32 i = 0; i + 8 <= N; i += 5) {
        __m256i mask = _mm256_loadu_si256((void *)(a + i));
        _mm256_maskstore_ps(g + i, mask, _mm256_maskload_ps(f + i, mask));
    }
    return sum(g, N * sizeof *g);
}

static u64 halves(void) {
    for (u32 i = 0; i < N; i += 8)
        _mm_storeu_si128((void *)(h + i), _mm256_cvtps_ph(_mm256_loadu_ps(f + i), 0));
    for (u32 i = 0; i < N; i += 8)
        _mm256_storeu_ps(g + i, _mm256_cvtph_ps(_mm_loadu_si128((void *)(h + i))));
    return sum(h, N * sizeof *h) ^ sum(g, N * sizeof *g);
}

static u64 bits(void) {
    u64 s = 0;
    for (u32 i = 0; i < N; i++) {
        u64 x = words[i], y = words[N - 1 - i];
        s += _pdep_u64(x, y) ^ _pext_u64(y, x) ^ _andn_u64(x, y) ^ _bzhi_u64(x, (u32)y & 63) ^ _blsr_u64(x) ^ _blsi_u64(y);
        s += _lzcnt_u64(x >> (i & 63)) + _tzcnt_u64(y << (i & 63)) * 1000 + __builtin_bswap64(x);
        s = s << 7 | s >> 57;
        unsigned long long high, low = _mulx_u64(x, y, &high);
        s ^= low + high;
    }
    return s;
}

u64 (*const v3_kernels[])(void) = {dot, axpy, roots, integers, bytes, mixed, gathered, masked, halves, bits, 0};
const char *const v3_names[] = {"dot", "axpy", "roots", "integers", "bytes", "mixed", "gathered", "masked", "halves", "bits"};

void v3_fill(void) { fill(); }

u64 v3_repeated(int n) {
    u64 last = 0;
    for (int round = 0; round < ROUNDS; round++)
        last = last * 31 + v3_kernels[n]();
    return last;
}
