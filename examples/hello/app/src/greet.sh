echo "hello from version $VERSION"
