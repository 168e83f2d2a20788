"""Create the table of visits."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """What `manage.py makemigrations` made of the first models."""

    initial = True
    operations = [
        migrations.CreateModel(
            name="Visit",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("page", models.CharField(max_length=200)),
                ("at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
    ]
