// How Python calls the passes: kernels on a GPU, loops on a CPU, with the same arguments.

#define WORLD_ARGUMENTS                                                                                              \
    const Node *nodes, const Triangle *triangles, const Corner *corners, const Texture *textures, const uint *texels, \
        const Node *top, const Instance *instances, const Material *materials, const Light *lights, const Place *places
#define WORLD {nodes, triangles, corners, textures, texels, top, instances, materials, lights, places}

#ifdef __CUDACC__

// Threads of a warp take 8 x 4 neighbouring samples: they meet the same nodes.
__device__ __forceinline__ int my_sample(int width, int height, int& x, int& y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, tiles = (width + 7) / 8, tile = i >> 5, lane = i & 31;
    x = (tile % tiles) * 8 + (lane & 7);
    y = (tile / tiles) * 4 + (lane >> 3);
    return x < width && y < height;
}

extern "C" __global__ void __launch_bounds__(128)
trace_samples(WORLD_ARGUMENTS, const View* views, const Settings* settings, Sample* out, float* depth, int kind) {
    World w = WORLD;
    const Settings s = *settings;
    int x, y;
    if (my_sample(lattice_width(s, kind), lattice_height(s, kind), x, y)) trace_sample(w, views, s, out, depth, blockIdx.y, kind, x, y);
}
extern "C" __global__ void __launch_bounds__(128)
light_samples(WORLD_ARGUMENTS, const View* views, const Settings* settings, const Sample* in, float* light, int kind) {
    World w = WORLD;
    const Settings s = *settings;
    int x, y;
    if (my_sample(lattice_width(s, kind), lattice_height(s, kind), x, y)) light_sample(w, views, s, in, light, blockIdx.y, kind, x, y);
}
extern "C" __global__ void __launch_bounds__(128) pixel_lights(const Settings* settings, const float* light, float* pixels) {
    const Settings s = *settings;
    int x, y;
    if (!my_sample(s.width, s.height, x, y)) return;
    store_light(s, light, pixels, blockIdx.y, x, y);
}
extern "C" __global__ void __launch_bounds__(128) develop(const Settings* settings, const float* light, const float* tone, u8* image) {
    const Settings s = *settings;
    int x, y;
    if (my_sample(s.width, s.height, x, y)) develop_pixel(s, light, tone, image, blockIdx.y, x, y);
}

#else

#define EACH_SAMPLE(KIND, CALL)                                                      \
    for (int view = 0; view < s.views; view++)                                       \
        for (int y = 0; y < lattice_height(s, KIND); y++)                            \
            for (int x = 0; x < lattice_width(s, KIND); x++) CALL;

extern "C" {
void trace_samples(WORLD_ARGUMENTS, const View* views, const Settings* settings, Sample* out, float* depth, int kind) {
    World w = WORLD;
    Settings s = *settings;
#pragma omp parallel for schedule(dynamic, 4) collapse(2)
    for (int view = 0; view < s.views; view++)
        for (int y = 0; y < lattice_height(s, kind); y++)
            for (int x = 0; x < lattice_width(s, kind); x++) trace_sample(w, views, s, out, depth, view, kind, x, y);
}
void light_samples(WORLD_ARGUMENTS, const View* views, const Settings* settings, const Sample* in, float* light, int kind) {
    World w = WORLD;
    Settings s = *settings;
    EACH_SAMPLE(kind, light_sample(w, views, s, in, light, view, kind, x, y))
}
void pixel_lights(const Settings* settings, const float* light, float* pixels) {
    Settings s = *settings;
    EACH_SAMPLE(0, store_light(s, light, pixels, view, x, y))
}
void develop(const Settings* settings, const float* light, const float* tone, u8* image) {
    Settings s = *settings;
    EACH_SAMPLE(0, develop_pixel(s, light, tone, image, view, x, y))
}
}

#endif
