"""Published sets of pictures: the digits that come with the package, MNIST, Fashion-MNIST and CIFAR-10."""
