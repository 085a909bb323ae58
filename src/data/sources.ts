/** Where the standard data sets are published, and how their files are recognised. */

/** A checksum with the name of its algorithm. */
export type Digest = `${'md5' | 'sha256'}:${string}`;

export interface SourceFile {
  readonly name: string;
  readonly bytes: number;
  readonly digest: Digest;
  /** Of what gunzip makes of the file: accepts mirrors that packed the same data anew. */
  readonly contents?: Digest;
}

export interface Source {
  readonly name: string;
  readonly title: string;
  /** The official location; ends with a slash. */
  readonly base: string;
  readonly files: readonly SourceFile[];
  /** The folder in the zip archive that is unpacked, and a file by which a complete one is known. */
  readonly unpack?: { readonly folder: string; readonly marker: string };
}

/*
 * Where the checksums come from. Archives: the SHA-256 values and sizes stand in several independent public loaders, which
 * also list the MD5 values of torchvision and of the authors' pages for the same files; Tiny-ImageNet has an MD5 only.
 * Contents: for MNIST computed here from real data, whose MD5 values (6bbc9ace…, a25bea73…, 2646ac64…, 27ae3e4e…) are
 * the published ones; for Fashion-MNIST the published MD5 values. All but the contents of MNIST is as published, without
 * a download of our own.
 */
export const SOURCES: readonly Source[] = [
  {
    name: 'mnist',
    title: 'handwritten digits, 28x28 grey, 10 classes, 60,000 + 10,000',
    base: 'https://ossci-datasets.s3.amazonaws.com/mnist/',
    files: [
      {
        name: 'train-images-idx3-ubyte.gz',
        bytes: 9_912_422,
        digest: 'sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
        contents: 'sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db',
      },
      {
        name: 'train-labels-idx1-ubyte.gz',
        bytes: 28_881,
        digest: 'sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
        contents: 'sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5',
      },
      {
        name: 't10k-images-idx3-ubyte.gz',
        bytes: 1_648_877,
        digest: 'sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
        contents: 'sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7',
      },
      {
        name: 't10k-labels-idx1-ubyte.gz',
        bytes: 4_542,
        digest: 'sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6',
        contents: 'sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2',
      },
    ],
  },
  {
    name: 'fashion-mnist',
    title: 'articles of clothing, 28x28 grey, 10 classes, 60,000 + 10,000',
    base: 'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',
    files: [
      {
        name: 'train-images-idx3-ubyte.gz',
        bytes: 26_421_880,
        digest: 'sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84',
        contents: 'md5:f4a8712d7a061bf5bd6d2ca38dc4d50a',
      },
      {
        name: 'train-labels-idx1-ubyte.gz',
        bytes: 29_515,
        digest: 'sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845',
        contents: 'md5:9018921c3c673c538a1fc5bad174d6f9',
      },
      {
        name: 't10k-images-idx3-ubyte.gz',
        bytes: 4_422_102,
        digest: 'sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073',
        contents: 'md5:8181f5470baa50b63fa0f6fddb340f0a',
      },
      {
        name: 't10k-labels-idx1-ubyte.gz',
        bytes: 5_148,
        digest: 'sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5',
        contents: 'md5:15d484375f8d13e6eb1aabb0c3f46965',
      },
    ],
  },
  {
    name: 'cifar10',
    title: 'small photographs, 32x32 colour, 10 classes, 50,000 + 10,000',
    base: 'https://www.cs.toronto.edu/~kriz/',
    files: [
      {
        name: 'cifar-10-binary.tar.gz',
        bytes: 170_052_171,
        digest: 'sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
      },
    ],
  },
  {
    name: 'cifar100',
    title: 'small photographs, 32x32 colour, 100 classes, 50,000 + 10,000',
    base: 'https://www.cs.toronto.edu/~kriz/',
    files: [
      {
        name: 'cifar-100-binary.tar.gz',
        bytes: 168_513_733,
        digest: 'sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec',
      },
    ],
  },
  {
    name: 'tiny-imagenet',
    title: 'photographs, 64x64 colour, 200 classes, 100,000 + 10,000',
    base: 'http://cs231n.stanford.edu/',
    files: [{ name: 'tiny-imagenet-200.zip', bytes: 248_100_043, digest: 'md5:90528d7ca1a48142e341f4ef8d21d0de' }],
    unpack: { folder: 'tiny-imagenet-200', marker: 'wnids.txt' },
  },
];
