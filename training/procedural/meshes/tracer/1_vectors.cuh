// Vectors, and what differs between CUDA (NVRTC, nvcc) and plain C++. Everything in this folder is one translation
// unit: the files are joined in the order of their names, so that a CPU test checks the very code that a GPU runs.

#ifdef __CUDACC__
#define HD __device__ __forceinline__
#define FUNCTION __device__ __noinline__  // compiled once instead of at each call
#define RESTRICT __restrict__
#define ROW __align__(16)  // rows are loaded four words at a time
#else
#include <math.h>
#include <string.h>
#define HD static inline
#define FUNCTION static
#define RESTRICT __restrict
#define ROW
#endif

typedef unsigned int uint;
typedef unsigned char u8;

#define FAR_AWAY 1e30f
#define PI 3.14159265358979f

struct V3 {
    float x, y, z;
};

HD V3 v3(float x, float y, float z) {
    V3 r = {x, y, z};
    return r;
}
HD V3 v3(const float* p) { return v3(p[0], p[1], p[2]); }
HD V3 operator+(V3 a, V3 b) { return v3(a.x + b.x, a.y + b.y, a.z + b.z); }
HD V3 operator-(V3 a, V3 b) { return v3(a.x - b.x, a.y - b.y, a.z - b.z); }
HD V3 operator*(V3 a, V3 b) { return v3(a.x * b.x, a.y * b.y, a.z * b.z); }
HD V3 operator*(V3 a, float s) { return v3(a.x * s, a.y * s, a.z * s); }
HD float dot(V3 a, V3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
HD V3 cross(V3 a, V3 b) { return v3(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x); }
HD V3 unit(V3 a) { return a * (1.0f / sqrtf(dot(a, a) + 1e-20f)); }
HD float least(float a, float b) { return a < b ? a : b; }
HD float most(float a, float b) { return a > b ? a : b; }
HD float clamp01(float x) { return least(most(x, 0.0f), 1.0f); }
HD V3 mix(V3 a, V3 b, float s) { return a + (b - a) * s; }
HD float brightest(V3 a) { return most(a.x, most(a.y, a.z)); }
// The display's 2.2: textures are stored as displayed, light adds up in linear space.
HD V3 linear(V3 a) { return v3(powf(most(a.x, 0), 2.2f), powf(most(a.y, 0), 2.2f), powf(most(a.z, 0), 2.2f)); }

// A unit vector as two 16-bit numbers: the octahedral map.
HD V3 unpack_normal(int code) {
    float x = (short)(code & 0xffff) / 32767.0f, y = (short)(code >> 16) / 32767.0f;
    float z = 1.0f - fabsf(x) - fabsf(y);
    if (z < 0) {
        float old = x;
        x = (1.0f - fabsf(y)) * (old < 0 ? -1.0f : 1.0f);
        y = (1.0f - fabsf(old)) * (y < 0 ? -1.0f : 1.0f);
    }
    return unit(v3(x, y, z));
}
HD int pack_normal(V3 n) {
    float s = 1.0f / (fabsf(n.x) + fabsf(n.y) + fabsf(n.z) + 1e-20f);
    float x = n.x * s, y = n.y * s;
    if (n.z < 0) {
        float old = x;
        x = (1.0f - fabsf(y)) * (old < 0 ? -1.0f : 1.0f);
        y = (1.0f - fabsf(old)) * (y < 0 ? -1.0f : 1.0f);
    }
    int a = (int)floorf(x * 32767.0f + 0.5f), b = (int)floorf(y * 32767.0f + 0.5f);
    return (a & 0xffff) | (b << 16);
}
