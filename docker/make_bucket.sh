#!/bin/sh
# Creates the bucket of docker-compose.yml, and a user that can access nothing else. Idempotent.
# Reads MC_HOST_store (how mc reaches the store as root), LYRA_STORE_BUCKET, LYRA_STORE_ACCESS_KEY, LYRA_STORE_SECRET_KEY.
set -eu

bucket="$LYRA_STORE_BUCKET"
user="$LYRA_STORE_ACCESS_KEY"
policy="$bucket-only"
document="${TMPDIR:-/tmp}/policy.json"

cat >"$document" <<END
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
      "Resource": ["arn:aws:s3:::$bucket"]
    },
    {
      "Effect": "Allow",
      "Action": [
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts"
      ],
      "Resource": ["arn:aws:s3:::$bucket/*"]
    }
  ]
}
END

mc mb --ignore-existing "store/$bucket"
mc admin user add store "$user" "$LYRA_STORE_SECRET_KEY"
mc admin policy create store "$policy" "$document"
# Attaching fails if the user already has the policy (https://github.com/minio/mc/issues/4863), which is fine.
if ! mc admin policy attach store "$policy" --user "$user"; then
    case "$(mc admin user info store "$user")" in
        *"$policy"*) ;;
        *) exit 1 ;;
    esac
fi
echo "bucket $bucket exists, and $user has access to it"
