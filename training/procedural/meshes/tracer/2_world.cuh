// What a ray meets: instances of meshes, two levels of bounding volume hierarchies, materials, textures, lights.
// The layouts are those of mesh_bank.py and mesh_scene.py.

// Two children with their boxes. child >= 0: a node; child < 0: a leaf, see leaf_first and leaf_count.
struct ROW Node {
    float lo0[3], hi0[3], lo1[3], hi1[3];
    int child0, child1, pad0, pad1;
};
HD int leaf_first(int child) { return (~child) >> 3; }
HD int leaf_count(int child) { return ((~child) & 7) + 1; }

struct ROW Triangle {
    float v[3];
    int slot;  // which of the mesh's materials
    float e1[3];
    float density;  // texture coordinates per metre
    float e2[3];
    int mesh;
};

struct Corner {
    int normal;  // see unpack_normal
    float u, v;
};

struct ROW Instance {
    float to_local[12];  // rows of a 3x4 matrix from the world
    int root;            // the mesh's first node
    int material;        // its first row
    int special;         // 1: has materials that rays may pass through
    float shrink;        // local metres per metre
};

// Where the texture coordinates come from.
enum { MESH_UV = 0, LOCAL_METRES = 1, WORLD_METRES = 2, PANORAMA = 3 };

struct ROW Material {
    float texture;         // number, or -1
    float mode;            // see above
    float scale_u, scale_v, shift_u, shift_v;
    float tint[3];         // as displayed
    float amount, gain;    // tint * (1 - amount + amount * gain * texel)
    float specular, shininess;
    float mirror;          // share reflected at normal incidence
    float opacity;         // below 0.5: rays pass
    float emission;
    float cutout;          // 1: the texture's alpha cuts holes
    float mean[3];         // linear mean colour
    float mirrored;        // 1: the texture repeats as its mirror image, so that it has no seams
    float spare[3];
};

struct ROW Texture {
    int first, width, height, levels;
};

struct ROW Light {
    float centre[3], a[3], b[3];  // points centre + s a + t b, s and t in [-1, 1]
    float power[3];
    float normal[3];  // shines to this side alone; zero: everywhere
    float spare;
};

struct ROW Place {  // a scene
    int root;   // first node of its instances' hierarchy
    int light, lights;
    int panorama;  // texture seen where a ray leaves the scene, or -1
    float centre[3], radius, yaw, gain;  // of the panorama's sphere
    float below[3], above[3];            // light from all sides, linear
    float reach;                         // metres beyond which nothing takes ambient light away
    float spare[3];
};

struct World {
    const Node* RESTRICT nodes;
    const Triangle* RESTRICT triangles;
    const Corner* RESTRICT corners;
    const Texture* RESTRICT textures;
    const uint* RESTRICT texels;
    const Node* RESTRICT top;
    const Instance* RESTRICT instances;
    const Material* RESTRICT materials;
    const Light* RESTRICT lights;
    const Place* RESTRICT places;
};

HD V3 to_local_point(const Instance& i, V3 p) {
    const float* m = i.to_local;
    return v3(m[0] * p.x + m[1] * p.y + m[2] * p.z + m[3], m[4] * p.x + m[5] * p.y + m[6] * p.z + m[7],
              m[8] * p.x + m[9] * p.y + m[10] * p.z + m[11]);
}
HD V3 to_local_vector(const Instance& i, V3 p) {
    const float* m = i.to_local;
    return v3(m[0] * p.x + m[1] * p.y + m[2] * p.z, m[4] * p.x + m[5] * p.y + m[6] * p.z,
              m[8] * p.x + m[9] * p.y + m[10] * p.z);
}
// Normals are transformed by the inverse's transpose, which is to_local's transpose.
HD V3 normal_to_world(const Instance& i, V3 n) {
    const float* m = i.to_local;
    return unit(v3(m[0] * n.x + m[4] * n.y + m[8] * n.z, m[1] * n.x + m[5] * n.y + m[9] * n.z,
                   m[2] * n.x + m[6] * n.y + m[10] * n.z));
}

// Textures.

HD float wrap(float x, int mirrored) {  // -> [0, 1)
    if (mirrored) {
        x = x - 2.0f * floorf(x * 0.5f);
        x = x < 1.0f ? x : 2.0f - x;
        return least(x, 0.999999f);
    }
    x -= floorf(x);
    return least(x, 0.999999f);
}

HD uint texel(const World& w, const Texture& t, int level, int x, int y, int mirrored) {
    int first = t.first, width = t.width, height = t.height;
    for (int k = 0; k < level; k++) {
        first += width * height;
        width = width > 1 ? width >> 1 : 1;
        height = height > 1 ? height >> 1 : 1;
    }
    if (mirrored) {
        x = x < 0 ? 0 : x >= width ? width - 1 : x;
        y = y < 0 ? 0 : y >= height ? height - 1 : y;
    } else {
        x = x < 0 ? x + width : x >= width ? x - width : x;
        y = y < 0 ? y + height : y >= height ? y - height : y;
        x = x < 0 ? 0 : x >= width ? width - 1 : x;
        y = y < 0 ? 0 : y >= height ? height - 1 : y;
    }
    return w.texels[first + y * width + x];
}

HD V3 colour_of(uint t) { return v3((t & 255) / 255.0f, ((t >> 8) & 255) / 255.0f, ((t >> 16) & 255) / 255.0f); }

HD V3 bilinear(const World& w, const Texture& t, int level, float u, float v, int mirrored) {
    int width = t.width >> level, height = t.height >> level;
    float x = u * (width > 1 ? width : 1) - 0.5f, y = v * (height > 1 ? height : 1) - 0.5f;
    float x0 = floorf(x), y0 = floorf(y), fx = x - x0, fy = y - y0;
    int i = (int)x0, j = (int)y0;
    V3 a = mix(colour_of(texel(w, t, level, i, j, mirrored)), colour_of(texel(w, t, level, i + 1, j, mirrored)), fx);
    V3 b = mix(colour_of(texel(w, t, level, i, j + 1, mirrored)), colour_of(texel(w, t, level, i + 1, j + 1, mirrored)), fx);
    return mix(a, b, fy);
}

// Trilinear lookup; spread: the pixel's width in texture coordinates times the texture's size, i.e. texels per pixel.
HD V3 sample(const World& w, int number, float u, float v, float spread, int mirrored) {
    const Texture& t = w.textures[number];
    u = wrap(u, mirrored);
    v = wrap(v, mirrored);
    float level = log2f(most(spread, 1e-6f));
    level = least(most(level, 0.0f), (float)(t.levels - 1));
    int low = (int)level;
    V3 a = bilinear(w, t, low, u, v, mirrored);
    if (low + 1 >= t.levels) return a;
    return mix(a, bilinear(w, t, low + 1, u, v, mirrored), level - low);
}

HD int alpha(const World& w, int number, float u, float v) {
    const Texture& t = w.textures[number];
    int x = (int)(wrap(u, 0) * t.width), y = (int)(wrap(v, 0) * t.height);
    return w.texels[t.first + y * t.width + x] >> 24;
}

// The panorama's colour (linear) in a direction; row 0 is up, as in the files.
HD V3 panorama(const World& w, const Place& p, V3 d, float spread) {
    d = unit(d);
    float u = atan2f(d.y, d.x) / (2 * PI) + p.yaw, v = acosf(most(-1.0f, least(1.0f, d.z))) / PI;
    return linear(sample(w, p.panorama, -u, least(v, 0.999f), spread * w.textures[p.panorama].width / (2 * PI), 0)) * p.gain;
}
